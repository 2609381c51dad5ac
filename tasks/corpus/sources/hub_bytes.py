"""Bytes of a file on the hub: all of them, going on where an earlier try broke off, or a part.

Plain HTTP ranges rather than the hub library's download: that begins again from the start after a
kill, and takes any body of the right length for the file.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import httpx2
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from model.core.errors import (
    CorruptDownloadError,
    DiskSpaceError,
    DownloadError,
    TransientDownloadError,
    is_disk_full,
)
from tasks.corpus.sources.hub_client import HubFile
from tasks.corpus.sources.hub_errors import our_errors
from tasks.corpus.sources.hub_retries import with_patience

logger = logging.getLogger(__name__)


def complete(file: HubFile, partial: Path) -> None:
    """Bring `partial` to the full length of the file; what it holds is not asked for again.

    Bytes are written as they come, so a kill loses none. Its content is not verified.

    Raises:
        TransientDownloadError: no bytes came in several tries; those that came before stay.
        CorruptDownloadError: the hub sends a file of another length than it listed.
        DownloadError: the hub refused.
        DiskSpaceError: the disk filled up; what it took stays.
    """
    with_patience(lambda: _go_on(file, partial), progress=lambda: num_bytes_at(partial))


def num_bytes_at(partial: Path) -> int:
    """Return how many bytes are there, 0 without a file."""
    return partial.stat().st_size if partial.exists() else 0


def _go_on(file: HubFile, partial: Path) -> None:
    start = num_bytes_at(partial)
    if start < file.num_bytes:
        asked = f"bytes={start}-" if start else None
        with _answer(file, asked) as response:
            appends = response.status_code == HTTPStatus.PARTIAL_CONTENT
            _require_length(response, file, start=start if appends else 0)
            if start and not appends:
                logger.info("%s: sent from its start, ranges are not served", file.url)
            _receive(response, partial, appends=appends)
    found = num_bytes_at(partial)
    if found > file.num_bytes:
        raise _other_length(file, f"{found:,} bytes or more")
    if found < file.num_bytes:  # a body that promised no length
        raise TransientDownloadError(
            "the hub broke off",
            expected=f"{file.num_bytes:,} bytes",
            found=f"{found:,} bytes",
            where=file.url,
            fix="try again later: what arrived is kept",
        )


def _receive(response: httpx2.Response, partial: Path, *, appends: bool) -> None:
    with partial.open("ab" if appends else "wb", buffering=0) as sink:
        for chunk in response.iter_bytes():
            try:
                _write(sink, chunk)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                raise DiskSpaceError(
                    "the disk filled up during a download",
                    expected="room for the rest of the file",
                    found=f"{error.strerror} after {sink.tell():,} bytes",
                    where=partial,
                    fix="free some space and run again: what arrived is kept, only the rest is "
                    "fetched; or set LLM_DATA_ROOT to a folder on a larger disk",
                ) from error


def _write(sink: io.FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:  # a disk that is nearly full takes a part and says no the next time
        rest = rest[os.write(sink.fileno(), rest) :]


def _require_length(response: httpx2.Response, file: HubFile, *, start: int) -> None:
    headers = response.headers
    if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise _other_length(file, f"no byte {start:,}")
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        found = headers.get("Content-Range", "no range")
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", found)
        if part and int(part[2]) != file.num_bytes:
            raise _other_length(file, f"a part of {int(part[2]):,} bytes")
        if part is None or int(part[1]) != start:
            raise _wrong_part(file, f"bytes {start}-{file.num_bytes - 1}", found)
    elif int(headers.get("Content-Length", file.num_bytes)) != file.num_bytes:
        raise _other_length(file, f"{int(headers['Content-Length']):,} bytes")


@contextmanager
def _answer(file: HubFile, asked: str | None) -> Iterator[httpx2.Response]:
    """Yield the hub's answer to one request, its body not read yet."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if asked is not None:
        headers["Range"] = asked
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        our_errors(file.url),
        get_session().stream("GET", file.url, headers=headers, timeout=seconds) as response,
    ):
        if response.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            hf_raise_for_status(response)
        yield response


class RangeReader(io.RawIOBase):
    """A remote file that is read only where it is asked for, each read one HTTP range request."""

    def __init__(self, file: HubFile) -> None:
        self.file = file
        self._position = 0

    def readable(self) -> bool:
        """Answer yes."""
        return True

    def seekable(self) -> bool:
        """Answer yes."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position from the start, from here, or from the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.file.num_bytes}
        self._position = origin[whence] + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes (fewer at the end of the file)."""
        left = max(0, self.file.num_bytes - self._position)
        num_bytes = left if size is None or size < 0 else min(size, left)
        if num_bytes == 0:
            return b""
        first, last = self._position, self._position + num_bytes - 1
        body = with_patience(lambda: self._request(first, last))
        self._position += num_bytes
        return body

    def _request(self, first: int, last: int) -> bytes:
        expected = f"bytes {first}-{last}/{self.file.num_bytes}"
        with _answer(self.file, f"bytes={first}-{last}") as response:
            found = response.headers.get("Content-Range", "no range")
            if response.status_code != HTTPStatus.PARTIAL_CONTENT or found != expected:
                raise _wrong_part(self.file, expected, f"status {response.status_code}, {found}")
            body = response.read()
        if len(body) != last - first + 1:
            raise _wrong_part(self.file, expected, f"{len(body)} bytes")
        return body


def _wrong_part(file: HubFile, expected: str, found: str) -> DownloadError:
    return DownloadError(
        "the hub did not send the part of a file that was asked for",
        expected=f"status {HTTPStatus.PARTIAL_CONTENT.value}, {expected}",
        found=found,
        where=file.url,
        fix="use an address that supports range requests, or leave source.max_documents unset",
    )


def _other_length(file: HubFile, found: str) -> CorruptDownloadError:
    return CorruptDownloadError(
        "the hub sends a file of another length than it listed",
        expected=f"{file.num_bytes:,} bytes",
        found=found,
        where=file.url,
        fix="check what HF_ENDPOINT stands for: a proxy or a mirror holds another file",
    )
