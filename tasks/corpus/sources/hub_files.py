"""Bytes of a file on the hub: whole and verified against its digest, or ranges of it.

A download is resumed with HTTP range requests: what arrived before a kill, a lost network or a full
disk stays. The hub library's own download starts again after a kill, and takes any body of the
right length for the file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from rich.filesize import decimal

from model.core.errors import (
    CorruptDownloadError,
    DiskSpaceError,
    DownloadError,
    TransientDownloadError,
    is_disk_full,
)
from model.core.files import file_sha256
from tasks.corpus.sources.hub_client import HubFile, cached_path, hub_errors, with_retries
from tasks.corpus.sources.raw_file import link_or_copy, require_space, sweep

SPACE_MARGIN_BYTES: Final = 32 * 2**20  # for logs, databases and manifests written meanwhile

logger = logging.getLogger(__name__)


def fetch_verified(file: HubFile, folder: Path) -> tuple[Path, str]:
    """Return a file and its sha256, from the user's hub cache or from the network, in `folder`.

    Raises:
        TransientDownloadError: worth a retry; what arrived stays in `folder`.
        CorruptDownloadError: the hub sent other bytes than it promised, twice; they are deleted.
        DownloadError: the hub refused.
        DiskSpaceError: the disk cannot hold the file, or filled up; what arrived stays.
    """
    cached = cached_path(file)
    if cached is not None:
        copy = folder / "cached.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy(cached, copy)
        try:
            return copy, _verified_sha256(copy, file)
        except CorruptDownloadError:
            logger.warning("%s is damaged: the file is fetched from the hub instead", cached)
    try:
        return _fetch(file, folder)
    except CorruptDownloadError as error:
        logger.warning("%s: fetched once more (found %s)", error.problem, error.found)
        return _fetch(file, folder)


def _fetch(file: HubFile, folder: Path) -> tuple[Path, str]:
    """Download a file, resuming a partial one of an earlier process; wrong bytes are deleted."""
    identity = hashlib.sha256(f"{file.revision}:{file.path}".encode()).hexdigest()
    partial = folder / f"{identity[:16]}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, keep=partial.name)
    left, whole = file.num_bytes - _num_bytes_at(partial), file.num_bytes
    require_space(folder, left + SPACE_MARGIN_BYTES)
    logger.info("fetching %s of %s: %s", decimal(left), decimal(whole), file.url)
    try:
        download(file, partial)
        return partial, _verified_sha256(partial, file)
    except CorruptDownloadError:
        partial.unlink(missing_ok=True)
        raise


def _verified_sha256(path: Path, file: HubFile) -> str:
    found = file_sha256(path)
    num_bytes = path.stat().st_size
    if found == (file.sha256 or found) and num_bytes == file.num_bytes:
        return found
    raise CorruptDownloadError(
        "the hub sent other bytes than it promised; they were thrown away",
        expected=f"{file.num_bytes:,} bytes with sha256 {file.sha256}",
        found=f"{num_bytes:,} bytes with sha256 {found}",
        where=file.url,
        fix="run again later; if it stays so, a proxy or a mirror behind HF_ENDPOINT is damaged",
    )


def download(file: HubFile, partial: Path) -> None:
    """Append to `partial` what it lacks of the file, as it comes; the content is not verified.

    Raises:
        TransientDownloadError: several attempts in a row brought no bytes; what arrived stays.
        CorruptDownloadError: the hub sends a file of another length than it listed.
        DownloadError: the hub refused.
        DiskSpaceError: the disk filled up; what arrived stays.
    """
    with_retries(lambda: _request_rest(file, partial), progress=lambda: _num_bytes_at(partial))


def _num_bytes_at(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _request_rest(file: HubFile, partial: Path) -> None:
    start = _num_bytes_at(partial)
    if start < file.num_bytes:
        byte_range = f"bytes={start}-" if start else None
        with _response(file, byte_range) as response:
            appends = response.status_code == HTTPStatus.PARTIAL_CONTENT
            _require_length(response, file, start=start if appends else 0)
            if start and not appends:
                logger.info("%s: sent from its start, ranges are not served", file.url)
            _receive(response, partial, appends=appends)
    found = _num_bytes_at(partial)
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
    while rest:  # a nearly full disk takes a part and fails the next time
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
def _response(file: HubFile, byte_range: str | None) -> Iterator[httpx2.Response]:
    """Yield the response to one request, its body not read yet.

    Args:
        byte_range: value of the header Range.
    """
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if byte_range is not None:
        headers["Range"] = byte_range
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        hub_errors(file.url),
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
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
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
        body = with_retries(lambda: self._request(first, last))
        self._position += num_bytes
        return body

    def _request(self, first: int, last: int) -> bytes:
        expected = f"bytes {first}-{last}/{self.file.num_bytes}"
        with _response(self.file, f"bytes={first}-{last}") as response:
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
        fix="check HF_ENDPOINT: a proxy or a mirror holds another file",
    )
