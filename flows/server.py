"""The Prefect API of a flow that is started by hand: the configured server, or a temporary one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefect.context import refresh_global_settings_context
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings

from model.core.errors import ServerError

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

logger = logging.getLogger(__name__)

SERVER_PROBE_SECONDS = 1.0


@contextlib.contextmanager
def prefect_api() -> Iterator[None]:
    """Give this process and its children one Prefect API: the configured or a temporary one."""
    url = get_current_settings().api.url
    if url and _answers(url):
        logger.info("using the Prefect server at %s", url)
        yield
        return
    server = _new_server()
    # Prefect passes a SIGTERM on to the handler before it: the default one would leave the server.
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    _start(server)
    try:
        with _api_address(server.api_url):
            try:
                yield
            finally:  # or they are sent, with many retries, to a server that is gone
                APILogWorker.drain_all()
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)


def _new_server() -> SubprocessASGIServer:
    """Import Prefect's server, which is slow, where it is needed."""
    from prefect.server.api.server import SubprocessASGIServer

    return SubprocessASGIServer()


def _start(server: SubprocessASGIServer) -> None:
    """Start a server that outlives Ctrl-C, which a terminal sends to all processes of a command."""
    timeout_seconds = get_current_settings().server.ephemeral.startup_timeout_seconds
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the server
    try:
        server.start(timeout=timeout_seconds)
    except RuntimeError as exc:
        raise ServerError(
            "the temporary Prefect server did not start; nothing was run",
            expected=f"an answer within {timeout_seconds} seconds",
            found=exc,
            fix="wait until the machine is less busy, raise "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or run `make local` and leave it "
            "running",
        ) from exc
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _api_address(url: str) -> Iterator[None]:
    """Let every thread of this process, and the task runner's processes, use one address.

    Settings set for a context would not reach Prefect's own threads, which send the logs.
    """
    before = os.environ.get(PREFECT_API_URL.name)
    os.environ[PREFECT_API_URL.name] = url
    refresh_global_settings_context()
    try:
        yield
    finally:
        del os.environ[PREFECT_API_URL.name]
        if before is not None:
            os.environ[PREFECT_API_URL.name] = before
        refresh_global_settings_context()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=SERVER_PROBE_SECONDS):  # noqa: S310
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
