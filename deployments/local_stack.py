"""``make local``: Prefect server, MLflow server, a worker and all deployments, as plain processes.

Everything listens on this machine only and keeps its state in SQLite in the project:
``.prefect/`` and ``.mlflow/``, the same files that flows started by hand use. Ctrl-C ends it all.
Why no maintained supervisor: docs/decisions/023-process-supervisor.md.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.addresses import (
    DEFAULT_PORTS,
    HOST,
    Addresses,
    read_addresses,
    require_free_ports,
)
from deployments.deploy import POOL, PROJECT
from deployments.processes import POLL_SECONDS, Service, end
from deployments.server_calls import answers, close_interrupted_runs, worker_online
from model.core.errors import ChildError, LLMError

WORKER = "local"

START_SECONDS = 180.0  # a first start makes two databases: 20 s on two idle cores
GRACE_SECONDS = {"worker": 45.0}  # a running training saves a checkpoint: see tasks/engine/child.py
DEFAULT_GRACE_SECONDS = 15.0
LOG_TAIL_LINES = 20


class StopRequested(Exception):  # noqa: N818
    """The user asked the stack to end."""


class LocalStack:
    """The running processes, in the order of their start."""

    def __init__(self, addresses: Addresses, environment: Mapping[str, str]) -> None:
        self.addresses = addresses
        self.environment = stack_environment(addresses, environment)
        self.logs = Path(self.environment["PREFECT_HOME"]) / "logs"
        self.services: list[Service] = []
        self.num_stop_signals = 0

    def ask_to_stop(self, *_signal: Any) -> None:
        """Handle a signal: the first ends the stack in order, the second at once."""
        self.num_stop_signals += 1

    def run(self) -> None:
        """Start everything in order of readiness, print the usage, and watch until asked to stop.

        Raises:
            ChildError: a process ended by itself, or was not ready in time.
        """
        addresses = self.addresses
        try:
            _print("starting (logs in " + _short_path(self.logs) + ") ...")
            self._start("prefect")
            self._start("mlflow")
            self._wait_until_ready("prefect", lambda: answers(f"{addresses.prefect_api}/health"))
            self._wait_until_ready("mlflow", lambda: answers(f"{addresses.mlflow}/health"))
            self._close_interrupted_runs()
            since = datetime.now(UTC)
            self._start("worker")
            self._wait_until_ready("worker", lambda: self._worker_online(since))
            self._deploy()
            _print(usage(addresses, self.logs))
            while True:
                self._poll()
        except StopRequested:
            _print("stopping (again to kill) ...")
        finally:
            self._end()

    def _start(self, name: str) -> None:
        service = Service(
            name,
            [sys.executable, "-m", *arguments(name, self.addresses).split()],
            environment=self.environment,
            directory=PROJECT,
            logs=self.logs,
        )
        self.services.append(service)

    def _wait_until_ready(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self._poll()
            if time.monotonic() > deadline:
                raise self._failure(name, f"not ready after {START_SECONDS:.0f} seconds")

    def _worker_online(self, since: datetime) -> bool:
        return worker_online(self.addresses.prefect_api, pool=POOL, name=WORKER, since=since)

    def _close_interrupted_runs(self) -> None:
        for name in close_interrupted_runs(self.addresses.prefect_api, pool=POOL):
            _print(f"run {name} was interrupted: marked as crashed; run it again to resume")

    def _deploy(self) -> None:
        self._start("deploy")
        while self.services[-1].process.poll() is None:
            self._poll()
        self._poll()

    def _poll(self) -> None:
        """Wait one poll interval: print the worker's log, check for signals and dead processes."""
        time.sleep(POLL_SECONDS)
        self._print_worker_log()
        if self.num_stop_signals:
            raise StopRequested
        for service in self.services:
            code = service.process.poll()
            if code or (code == 0 and service.name != "deploy"):
                raise self._failure(service.name, f"exit code {code}")

    def _print_worker_log(self) -> None:
        for service in self.services:
            for line in service.new_lines():
                if service.name == "worker":
                    _print(f"worker | {line}")

    def _failure(self, name: str, found: str) -> ChildError:
        service = next(service for service in self.services if service.name == name)
        return ChildError(
            f"the {name} process of the local stack failed",
            expected="a process that stays up and answers",
            found="\n    ".join(
                [found, "its last lines were", *service.last_lines(LOG_TAIL_LINES)]
            ),
            where=service.log,
            fix="fix the cause that its last lines name and start again",
        )

    def _end(self) -> None:
        """End the worker first, so that the servers record the end of its runs."""
        for service in reversed(self.services):
            end(
                service,
                grace_seconds=GRACE_SECONDS.get(service.name, DEFAULT_GRACE_SECONDS),
                hurry=lambda: self.num_stop_signals > 1,
            )
            self._print_worker_log()
            if service.name == "worker" and answers(f"{self.addresses.prefect_api}/health"):
                self._close_interrupted_runs()


def stack_environment(addresses: Addresses, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every process of the stack; the caller's settings stay."""
    store = PROJECT / ".mlflow"
    defaults = {
        "PREFECT_HOME": str(PROJECT / ".prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # how soon a new run is picked up; 10 by default
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{store / 'mlflow.db'}",
        # Files, not the server's proxy: a flow run without servers can write there too.
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": (store / "artifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    fixed = {
        "PREFECT_API_URL": addresses.prefect_api,
        "PREFECT_SERVER_UI_API_URL": addresses.prefect_api,
        "MLFLOW_TRACKING_URI": addresses.mlflow,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "160",  # no wrapping of logs at 80 columns
    }
    merged = {**defaults, **environment, **fixed}
    merged["PREFECT_HOME"] = str(Path(merged["PREFECT_HOME"]).absolute())
    return merged


def arguments(name: str, addresses: Addresses) -> str:
    """Return the arguments of a process, after ``python -m``.

    MLflow takes its stores from the environment; the worker makes the work pool if there is none.
    """
    return {
        "prefect": f"prefect server start --host {HOST} --port {addresses.prefect_port}",
        "mlflow": f"mlflow server --host {HOST} --port {addresses.mlflow_port} --workers 1",
        "worker": f"prefect worker start --pool {POOL} --type process --name {WORKER}",
        "deploy": "deployments.deploy",
    }[name]


def usage(addresses: Addresses, logs: Path) -> str:
    """Return the table of addresses and the commands to try."""
    lines = [
        "",
        "ready",
        f"  Prefect   {addresses.prefect}   runs, logs, parameters",
        f"  MLflow    {addresses.mlflow}   metrics, data sets, models",
        f"  logs      {_short_path(logs)}/*.log",
        "",
        "in another terminal:",
    ]
    if addresses.prefect_port != DEFAULT_PORTS["PREFECT_PORT"]:
        lines.append(f"  export PREFECT_API_URL={addresses.prefect_api}")
    prefect = _short_path(Path(sys.prefix)) + "/bin/prefect"
    lines += [
        f"  {prefect} deployment run pretrain/demo --watch",
        f"  {prefect} deployment run pretrain/demo -p 'train={{\"steps\": 100}}' --watch",
        f"  {prefect} deployment ls",
        "",
        "Ctrl-C ends everything.",
        "",
    ]
    return "\n".join(lines)


def _short_path(path: Path) -> str:
    """Return a path, relative to the project if it is inside."""
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def _print(text: str) -> None:
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError:  # the terminal is gone; the logs hold the same
        return


def main() -> None:
    """Run the stack until Ctrl-C or SIGTERM and exit: 0, or 2 for a user-fixable error."""
    try:
        addresses = read_addresses(os.environ)
        require_free_ports(addresses)
        stack = LocalStack(addresses, os.environ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stack.ask_to_stop)
        (PROJECT / ".mlflow").mkdir(exist_ok=True)
        stack.run()
    except LLMError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
