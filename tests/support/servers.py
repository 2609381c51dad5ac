"""Servers and databases of MLflow and Prefect for tests: of this session, or of one test."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.error import URLError

import psutil
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)

START_TRIES = 240
TRY_SECONDS = 0.5


@cache
def local_mlflow_uri() -> str:
    """Return the address of one database for all tests: its schema takes seconds to make."""
    # In memory where there is a way: MLflow waits for the disk at every call.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="llm-mlflow-", dir=memory))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return f"sqlite:///{directory / 'mlflow.db'}"


def new_mlflow_store(path: Path) -> None:
    """Put a database of MLflow's there unless there is one: a copy, as making one takes seconds."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_empty_mlflow_store(), path)


@cache
def _empty_mlflow_store() -> Path:
    from mlflow import MlflowClient  # seconds to import, and seldom wanted by those who come here

    directory = Path(tempfile.mkdtemp(prefix="llm-mlflow-empty-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@cache
def shared_prefect_api() -> str:
    """Return the address of one Prefect server for all flows that tests of this process start.

    It ends with this process, and has a database of its own: another may be set for the tests that
    run flows in this process.
    """
    from prefect.server.api.server import SubprocessASGIServer  # likewise

    directory = Path(tempfile.mkdtemp(prefix="llm-prefect-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    database = f"sqlite+aiosqlite:///{directory / 'prefect.db'}"
    server = SubprocessASGIServer(port=free_port())
    with temporary_settings(
        updates={PREFECT_SERVER_DATABASE_CONNECTION_URL: database},
        restore_defaults={PREFECT_API_URL},
    ):
        server.start(timeout=round(START_TRIES * TRY_SECONDS))
    return server.api_url


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def mlflow_server(directory: Path) -> Iterator[str]:
    """Run an MLflow server on a database and a file store in a directory; yield its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}",
        "--artifacts-destination", str(directory / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=directory
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait_until_healthy(process, uri, log=directory / "server.log")
            yield uri
        finally:
            _end_with_children(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], uri: str, *, log: Path) -> None:
    for _ in range(START_TRIES):
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=10):
                return
        except (URLError, ConnectionError, TimeoutError):
            try:
                code = process.wait(TRY_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"mlflow server ended with {code}: {log.read_text()}") from None
    raise RuntimeError(f"mlflow server does not answer: {log.read_text()}")


def _end_with_children(process: subprocess.Popen[bytes]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        member.kill()
    process.wait()
