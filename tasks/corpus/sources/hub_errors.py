"""Failures of the Hugging Face hub as our own errors, and the variables that steer it.

HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are read at each call: the library freezes the first two
when it is imported. A 5xx or a lost connection is transient: worth another try.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2  # the client below huggingface_hub: its errors come through unchanged
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from model.core.errors import (
    DiskSpaceError,
    DownloadError,
    LLMError,
    TransientDownloadError,
    is_disk_full,
)

DEFAULT_ENDPOINT = "https://huggingface.co"


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT


@contextmanager
def our_errors(where: str) -> Iterator[None]:
    """Raise every failure of a request to the hub as one of our errors.

    Args:
        where: the file, folder or revision that is asked for.

    Raises:
        TransientDownloadError: no answer, a broken one, 408, 429 or 5xx: another try may do.
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
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
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


def _refusal(error: Exception, *, where: str) -> DownloadError:
    """Return our error for an answer of the hub, or for the lack of one."""
    if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
        return _offline(where)
    if not isinstance(error, HfHubHTTPError):
        cause = error.__cause__ or error
        is_answer = isinstance(cause, HfHubHTTPError)
        return _refusal(cause, where=where) if is_answer else _unreachable(cause, where=where)
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
