"""What we ask of the Hugging Face hub: a commit, a listing, a whole file, a part of a file.

All reads happen at a pinned commit. Every failure is one of our own errors (see `hub_errors`).
"""

from __future__ import annotations

import io
import re
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from model.config import Config
from model.errors import DownloadError
from tasks.corpus.hub_errors import endpoint, our_errors

ANSWER_SECONDS = 10.0  # for the first question, so that a machine without network learns it soon
RANGE_RETRIES = 2  # of one ranged read answered 429 or 5xx: a sample takes hundreds of them


class HubFile(Config):
    """One file of a data set repository at one commit."""

    repo: str
    revision: str
    path: str
    num_bytes: int
    sha256: str | None

    @property
    def url(self) -> str:
        """Address of the bytes."""
        return hf_hub_url(
            self.repo,
            self.path,
            repo_type="dataset",
            revision=self.revision,
            endpoint=endpoint(),
        )


def find_commit(repo: str, revision: str) -> str:
    """Return the 40-digit commit that a branch, tag or commit stands for now."""
    with our_errors(f"{repo}@{revision}"):
        api = HfApi(endpoint=endpoint())
        info = api.dataset_info(repo, revision=revision, expand=["sha"], timeout=ANSWER_SECONDS)
    if info.sha is None or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise DownloadError(
            "the hub named no commit",
            expected="40 hex digits",
            found=info.sha,
            where=f"{repo}@{revision} at {endpoint()}",
            fix="check that HF_ENDPOINT is the address of a Hugging Face hub",
        )
    return info.sha


def list_folder(repo: str, revision: str, folder: str) -> list[HubFile]:
    """Return all files below a folder of the repository ('' = all of it)."""
    with our_errors(f"{repo}@{revision}/{folder}"):
        tree = HfApi(endpoint=endpoint()).list_repo_tree(
            repo, folder or None, recursive=True, revision=revision, repo_type="dataset"
        )
        return [
            HubFile(
                repo=repo,
                revision=revision,
                path=entry.path,
                num_bytes=entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else None,
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        ]


def cached_path(file: HubFile) -> Path | None:
    """Return the file in the user's hub cache, where another program put it, or None."""
    found = try_to_load_from_cache(
        file.repo, file.path, revision=file.revision, repo_type="dataset"
    )
    return Path(found).resolve() if isinstance(found, str) else None


def download(file: HubFile, folder: Path) -> Path:
    """Fetch the whole file into `folder` and return its path there; its content is not verified."""
    with our_errors(file.url):
        return Path(
            hf_hub_download(
                file.repo,
                file.path,
                repo_type="dataset",
                revision=file.revision,
                local_dir=folder,
                endpoint=endpoint(),
            )
        )


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
        body = self._request(first, last)
        self._position += num_bytes
        return body

    def _request(self, first: int, last: int) -> bytes:
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={first}-{last}",
            "Accept-Encoding": "identity",
        }
        with (
            our_errors(self.file.url),
            http_stream_backoff(
                "GET",
                self.file.url,
                headers=headers,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                max_retries=RANGE_RETRIES,
                retry_on_exceptions=(),
            ) as response,
        ):
            hf_raise_for_status(response)
            expected = f"bytes {first}-{last}/{self.file.num_bytes}"
            found = response.headers.get("Content-Range", "no range")
            if response.status_code != HTTPStatus.PARTIAL_CONTENT or found != expected:
                raise self._wrong_part(expected, f"status {response.status_code}, {found}")
            body = response.read()
        if len(body) != last - first + 1:
            raise self._wrong_part(expected, f"{len(body)} bytes")
        return body

    def _wrong_part(self, expected: str, found: str) -> DownloadError:
        return DownloadError(
            "the hub did not send the part of a file that was asked for",
            expected=f"status {HTTPStatus.PARTIAL_CONTENT.value}, {expected}",
            found=found,
            where=self.file.url,
            fix="use an address that supports range requests, or leave source.max_documents unset",
        )
