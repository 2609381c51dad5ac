"""Child processes with a log file each: started, watched, and ended with all their descendants.

Output goes straight into the log file, which the parent reads back: a child that outlives its
parent can still write, and the parent needs no threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Service:
    """One running child process, in a session of its own.

    Ctrl-C in the terminal therefore reaches the parent only, which ends its children in order. On
    Linux a child also ends when its parent is killed.

    Args:
        name: the log is ``<name>.log``.
        command: program and arguments.
        environment: the whole environment of the child.
        directory: where it runs.
        logs: directory of the log, which is started anew.
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
                preexec_fn=_end_with_parent(),
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

    def tree(self) -> list[psutil.Process]:
        """Return the process and its living descendants, whatever session they are in."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def end(service: Service, *, grace_seconds: float, hurry: Callable[[], bool]) -> None:
    """End a service and all its descendants: ask each once, then kill what is left.

    Args:
        grace_seconds: what the processes get to save their work.
        hurry: true cuts the grace short.
    """
    known: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + grace_seconds
    while True:
        for process in service.tree():
            if process.pid not in known:
                known[process.pid] = process
                _signal(process, signal.SIGTERM)
        service.process.poll()
        alive = _alive(known.values())
        if not alive:
            return
        if hurry() or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    service.process.wait()
    psutil.wait_procs(alive, timeout=grace_seconds)


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _runs(process)]


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


def _end_with_parent() -> Callable[[], None] | None:
    """Return what a child does before its program starts, so that it ends when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return prepare
