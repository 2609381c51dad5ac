"""Patience with the hub: how often it is asked again, and after how long.

What is still wrong after that goes up as a transient error, and the task that called tries again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from model.core.errors import TransientDownloadError

logger = logging.getLogger(__name__)

TRIES = 5
LONGEST_PAUSE_SECONDS = 30.0  # of our own choice
LONGEST_ASKED_PAUSE_SECONDS = 330.0  # the hub counts requests in windows of five minutes

Answer = TypeVar("Answer")


def with_patience(
    ask: Callable[[], Answer],
    *,
    progress: Callable[[], int] = lambda: 0,
    only_if_answered: bool = False,
) -> Answer:
    """Return what `ask` returns, calling it again after a transient failure.

    Args:
        ask: one request to the hub.
        progress: bytes that are there; tries begin anew whenever there are more than ever before.
        only_if_answered: give up at once if there was no answer, as on a machine without network.

    Raises:
        TransientDownloadError: of the last try, or the hub asks for a longer pause than we grant.
    """
    most_bytes = progress()
    num_failed = 0
    while True:
        try:
            return ask()
        except TransientDownloadError as error:
            num_bytes = progress()
            num_failed = 1 if num_bytes > most_bytes else num_failed + 1
            most_bytes = max(most_bytes, num_bytes)
            seconds = pause_seconds(error, num_failed=num_failed)
            hopeless = only_if_answered and _answer_headers(error) is None
            if num_failed >= TRIES or seconds is None or hopeless:
                raise
            logger.warning("%s: asked again in %.1f s (%s)", error.problem, seconds, error.found)
            _sleep(seconds)


def pause_seconds(error: TransientDownloadError, *, num_failed: int) -> float | None:
    """Return how long to wait before the next try, or None if that would be too long.

    The hub's own word counts first (Retry-After, or the end of its window for requests). Without
    one the pause doubles with each failure. Up to as much again is added by chance, so that
    workers that failed together do not come back together.
    """
    asked = _asked_seconds(error)
    if asked is not None and asked > LONGEST_ASKED_PAUSE_SECONDS:
        return None
    own = min(LONGEST_PAUSE_SECONDS, 2.0 ** (num_failed - 1))
    return (own if asked is None else asked) + random.uniform(0, own)  # noqa: S311 - no secret


def _asked_seconds(error: TransientDownloadError) -> float | None:
    headers = _answer_headers(error) or {}
    limits = parse_ratelimit_headers(headers)
    if limits is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    asked = headers.get("Retry-After", "").strip()
    return float(asked) if asked.isdigit() else None


def _answer_headers(error: BaseException) -> Mapping[str, str] | None:
    """Return the headers of the refusal that an error tells of, None if there was no answer."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return None if cause is None else cause.response.headers


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
