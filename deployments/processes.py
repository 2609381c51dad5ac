"""Child processes with a log file each: start, watch, and end with all descendants.

Output goes to the log file, which the parent reads: a child that outlives its parent can still
write, and the parent needs no threads.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from model.core.processes import parent_death_signal

POLL_SECONDS = 0.2


class Service:
    """One running child process, in a session of its own.

    Ctrl-C in the terminal therefore reaches the parent only, which ends its children in order. On
    Linux a child also ends when its parent is killed.

    Args:
        name: the log is ``<name>.log``.
        command: program and arguments.
        environment: the whole environment of the child.
        directory: where it runs.
        logs: directory of the log, which is overwritten.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        logs: Path,
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                preexec_fn=parent_death_signal(signal.SIGTERM),
            )
        self._num_bytes_read = 0

    def new_lines(self) -> list[str]:
        """Return the complete lines written since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._num_bytes_read)
            complete, newline, _ = log.read().rpartition(b"\n")
        if not newline:
            return []
        self._num_bytes_read += len(complete) + len(newline)
        return complete.decode(errors="replace").split("\n")

    def last_lines(self, num_lines: int) -> list[str]:
        """Return the end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        self.process.send_signal(number)

    def descendants(self) -> list[psutil.Process]:
        """Return the living processes below this one, whatever session they are in."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def end(service: Service, *, grace_seconds: float, hurry: Callable[[], bool]) -> None:
    """End a service and all its descendants: SIGTERM to each, then SIGKILL after the grace time.

    Descendants come first, while the service itself is suspended: a worker that gets SIGTERM kills
    its runs, and one that does not would start the next run.

    Args:
        grace_seconds: time for the processes to save their work.
        hurry: true ends the grace time.
    """
    deadline = time.monotonic() + grace_seconds
    asked: dict[int, psutil.Process] = {}

    def ask(processes: Iterable[psutil.Process]) -> None:
        for process in processes:
            if process.pid not in asked:
                asked[process.pid] = process
                _signal(process, signal.SIGTERM)

    def wait_until(ended: Callable[[], bool]) -> None:
        while not ended() and not hurry() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            ask(service.descendants())

    service.send_signal(signal.SIGSTOP)
    below = service.descendants()
    ask(process for process in below if _parent(process) == service.process.pid)
    time.sleep(POLL_SECONDS)  # a run knows that it is stopped before its own children are
    ask(below)
    wait_until(lambda: not any(map(_runs, asked.values())))
    service.send_signal(signal.SIGTERM)
    service.send_signal(signal.SIGCONT)
    wait_until(lambda: service.process.poll() is not None)
    for process in filter(_runs, asked.values()):
        _signal(process, signal.SIGKILL)
    service.send_signal(signal.SIGKILL)
    service.process.wait()
    psutil.wait_procs(list(asked.values()), timeout=grace_seconds)


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
