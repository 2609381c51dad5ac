"""Requests to the Hugging Face hub: a data set's commit and files, our errors, the retry policy.

Everything is asked at a pinned commit. HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are read at each
call: the library freezes the first two when it is imported. Bytes of files: ``hub_files``.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import httpx2  # the client below huggingface_hub: its errors come through unchanged
from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import parse_ratelimit_headers

from model.core.config import Config
from model.core.errors import (
    DiskSpaceError,
    DownloadError,
    LLMError,
    TransientDownloadError,
    is_disk_full,
)

logger = logging.getLogger(__name__)

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
COMMIT_TIMEOUT_SECONDS: Final = 10.0  # first request of a run: fail soon without a network
MAX_ATTEMPTS: Final = 5
MAX_BACKOFF_SECONDS: Final = 30.0
MAX_RETRY_AFTER_SECONDS: Final = 330.0  # the hub counts requests in windows of five minutes

Answer = TypeVar("Answer")


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


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT


def page_url(repo: str, revision: str, folder: str = "") -> str:
    """Return the address of a folder of a data set, for people."""
    return f"{endpoint()}/datasets/{repo}/tree/{revision}/{folder}".rstrip("/")


def find_commit(repo: str, revision: str) -> str:
    """Return the 40-digit commit that a branch, tag or commit stands for now."""
    where = page_url(repo, revision)

    def request() -> str | None:
        with hub_errors(where):
            api = HfApi(endpoint=endpoint())
            timeout = COMMIT_TIMEOUT_SECONDS
            return api.dataset_info(repo, revision=revision, expand=["sha"], timeout=timeout).sha

    commit = with_retries(request, retry_without_response=False)
    if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DownloadError(
            "the hub named no commit",
            expected="40 hex digits",
            found=commit,
            where=where,
            fix="check that HF_ENDPOINT is the address of a Hugging Face hub",
        )
    return commit


def list_folder(repo: str, revision: str, folder: str) -> list[HubFile]:
    """Return all files below a folder of the repository ('' = all of it)."""
    with hub_errors(page_url(repo, revision, folder)):
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


# --- retry policy


def with_retries(
    request: Callable[[], Answer],
    *,
    progress: Callable[[], int] = lambda: 0,
    retry_without_response: bool = True,
) -> Answer:
    """Return the result of a request, retried with exponential backoff after transient failures.

    Failures that remain are retried by the calling task.

    Args:
        progress: number of bytes received; attempts are counted from 0 again when it grows.
        retry_without_response: False fails at once without an HTTP response, as without a network.

    Raises:
        TransientDownloadError: of the last attempt, or the hub asks for too long a wait.
    """
    most_bytes = progress()
    num_failed = 0
    while True:
        try:
            return request()
        except TransientDownloadError as error:
            num_bytes = progress()
            num_failed = 1 if num_bytes > most_bytes else num_failed + 1
            most_bytes = max(most_bytes, num_bytes)
            seconds = backoff_seconds(error, num_failed=num_failed)
            is_final = not retry_without_response and _response_headers(error) is None
            if num_failed >= MAX_ATTEMPTS or seconds is None or is_final:
                raise
            logger.warning("%s: retry in %.1f s (%s)", error.problem, seconds, error.found)
            _sleep(seconds)


def backoff_seconds(error: TransientDownloadError, *, num_failed: int) -> float | None:
    """Return the wait before the next attempt, or None if the hub asks for too long a one.

    The hub's own figure counts first (Retry-After, or the end of its rate limit window). Without
    one the wait doubles with each failure. Jitter of up to as much again keeps workers that failed
    together from retrying together.
    """
    headers = _response_headers(error) or {}
    limits = parse_ratelimit_headers(headers)
    retry_after = headers.get("Retry-After", "").strip()
    backoff = min(MAX_BACKOFF_SECONDS, 2.0 ** (num_failed - 1))
    wait = float(retry_after) if retry_after.isdigit() else None
    if limits is not None and limits.remaining == 0:
        wait = float(limits.reset_in_seconds)
    if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
        return None
    return (backoff if wait is None else wait) + random.uniform(0, backoff)  # noqa: S311


def _response_headers(error: BaseException) -> Mapping[str, str] | None:
    """Return the headers of the HTTP error below an error, None if there was no response."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return None if cause is None else cause.response.headers


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


# --- errors


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Raise every failure of a request to the hub as one of our errors.

    Args:
        where: the file, folder or revision that is asked for.

    Raises:
        TransientDownloadError: no response, a broken one, 408, 429 or 5xx: worth a retry.
        DownloadError: any other refusal, or HF_HUB_OFFLINE is set.
        DiskSpaceError: the disk filled up.
    """
    if _is_offline():
        raise _offline(where)
    try:
        yield
    except LLMError:
        raise
    except (HFValidationError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise DownloadError(
            "the hub's address or the name of the data set is malformed",
            expected="source.repo as owner/name, HF_ENDPOINT unset or as https://host",
            found=str(error),
            where=where,
            fix=f"check source.repo and HF_ENDPOINT ({_setting('HF_ENDPOINT')})",
        ) from error
    except OfflineModeIsEnabled as error:
        raise _offline(where) from error
    except HfHubHTTPError as error:
        raise _refusal(error, where=where) from error
    except httpx2.TransportError as error:
        raise _unreachable(error, where=where) from error
    except OSError as error:
        if is_disk_full(error):
            raise DiskSpaceError(
                "the disk filled up during a download",
                found=str(error),
                where=where,
                fix="free some space, or set LLM_DATA_ROOT to a folder on a larger disk",
            ) from error
        if error.errno is None:  # a body of another length than promised
            raise _unreachable(error, where=where) from error
        raise


def _refusal(error: HfHubHTTPError, *, where: str) -> DownloadError:
    status = error.response.status_code
    if status in (408, 429) or status >= 500:
        return _unreachable(error, where=where)
    problem, fix = _explain(error, status)
    return DownloadError(
        problem, expected="status 200", found=f"status {status}", where=where, fix=fix
    )


def _explain(error: HfHubHTTPError, status: int) -> tuple[str, str]:
    token = f"HF_TOKEN ({_setting('HF_TOKEN', secret=True)})"
    if isinstance(error, GatedRepoError):
        return (
            "the data set is gated",
            f"accept its conditions on its page, and set {token} to a token of that account",
        )
    if isinstance(error, RevisionNotFoundError):
        return "the data set has no such revision", "check source.revision"
    if isinstance(error, RemoteEntryNotFoundError):
        return "the data set has no such file", "check source.files and source.revision"
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return (
            "the hub knows no such data set, or does not show it to you",
            f"check source.repo; for a private or gated one set {token}",
        )
    if status == 403:
        return "the hub forbids the download", f"set {token} to a token that may read it"
    return f"the hub refused: {str(error).splitlines()[0]}", "check source.repo and HF_ENDPOINT"


def _unreachable(error: BaseException, *, where: str) -> TransientDownloadError:
    return TransientDownloadError(
        "the hub cannot be reached, or broke off",
        expected=f"an answer of {endpoint()}",
        found=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        where=where,
        fix="try again later; check the network and HF_ENDPOINT "
        f"({_setting('HF_ENDPOINT')}); without a network use source.kind=local or demo",
    )


def _offline(where: str) -> DownloadError:
    return DownloadError(
        "the hub may not be asked, and this was never fetched before",
        expected=f"an answer of {endpoint()}",
        found=f"HF_HUB_OFFLINE ({_setting('HF_HUB_OFFLINE')})",
        where=where,
        fix="unset HF_HUB_OFFLINE, set source.revision to a commit that was fetched before, "
        "or use source.kind=local or demo",
    )


def _is_offline() -> bool:
    flag = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return constants.is_offline_mode() or flag in ("1", "ON", "YES", "TRUE")


def _setting(name: str, *, secret: bool = False) -> str:
    value = os.environ.get(name)
    if not value:
        return "now unset"
    return "now set" if secret else f"now {value}"
