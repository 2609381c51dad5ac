"""Child processes of stages: start, watch, stop, and report their failures.

Called from the main thread of a flow, where the TerminationSignal of a cancelled Prefect run and a
Ctrl-C arrive as exceptions: both stop the child first.

    <stage>/.launch/<name>-<key12>-<time>-<pid>/   config, log and result of one child; stays if it
                                                   failed, until newer ones push it out
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from model.config.runs import settled_result
from model.core.config import Config
from model.core.errors import ChildError, ChildInterruptedError, ChildKilledError
from model.core.files import write_synced
from model.core.processes import parent_death_signal
from model.core.store import Work
from tasks.engine.pipeline import project_root

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GRACE_SECONDS = 22  # below the 30 s Prefect waits before it kills, above a checkpoint's time
LOG_TAIL_LINES = 15
KEPT_LAUNCHES = 5  # of failed children of a stage, for whoever reads their logs
CONFIG_NAME = "config.json"
LOG_NAME = "child.log"
LOCK_NAME = "lock"
ASKED_TO_STOP = (-signal.SIGTERM, -signal.SIGINT)
# Threads that wait for each other must sleep, not spin: on cores shared with anything else,
# spinning made a training step three times slower.
CHILD_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class Child:
    """One child process with its own launch directory for config, log and result.

    Args:
        work: the artifact the child makes.
        config: written to ``config.json``, whose path is the child's only argument.
    """

    def __init__(self, work: Work, config: Config) -> None:
        launches = work.path.parent / ".launch"
        sweep_launches(launches, keep=KEPT_LAUNCHES)
        started = time.strftime("%Y%m%d-%H%M%S")
        self.directory = _new_directory(launches, f"{work.path.stem}-{started}-{os.getpid()}")
        self.config = self.directory / CONFIG_NAME
        self.log = self.directory / LOG_NAME
        write_synced(self.config, config.model_dump_json(indent=1).encode())

    def run(
        self,
        module: str,
        *,
        launcher: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Run ``python [launcher] -m module --config ...`` to its end.

        Args:
            launcher: interpreter arguments in front of the module, such as torchrun's.
            environment: variables on top of this process's own.
            watch: called about twice a second while the child runs.

        Raises:
            ChildInterruptedError: the child received a request to stop and did.
            ChildKilledError: the child, or its launcher, died of a signal.
            ChildError: the child failed.
        """
        command = [sys.executable, *launcher, "-m", module, "--config", str(self.config)]
        with self.log.open("ab") as log, (self.directory / LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it when this process dies
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=project_root(),
                env={**CHILD_ENVIRONMENT, **os.environ, **(environment or {})},
                preexec_fn=parent_death_signal(signal.SIGTERM),
            )
            try:
                while process.poll() is None:
                    time.sleep(POLL_SECONDS)
                    if watch:
                        watch()
            except BaseException:
                stop(process)
                raise
        failure = self._failure(module, process.returncode)
        if failure:
            raise failure
        shutil.rmtree(self.directory)

    def _failure(self, module: str, code: int) -> ChildError | None:
        """Return how a child failed, if it did; a launcher may exit with 0 although it did.

        What one of its processes settled counts. An error that no user can fix may be
        the echo of another process's death: then the exit code counts, with the log's last lines.
        """
        settled = settled_result(self.directory)
        if settled and settled.state == "interrupted":
            return ChildInterruptedError(
                f"{module} stopped on request and saved its work at step {settled.step}",
                fix="run again: it resumes there",
            )
        if settled and settled.error:
            parts = settled.error.model_dump(include={"expected", "found", "where", "fix"})
            return ChildError(f"{module} stopped: {settled.error.problem}", **parts)
        if code == 0:
            return None
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        is_killed = code < 0 and code not in ASKED_TO_STOP
        return (ChildKilledError if is_killed else ChildError)(
            f"{module} ended with exit code {code}",
            expected="exit code 0",
            found="\n    ".join(["its last lines were", *lines]),
            where=self.log,
            fix="correct what its message names and run again: finished stages and checkpoints are "
            "kept",
        )


def _new_directory(parent: Path, name: str) -> Path:
    """Make a directory of this name, or of this name and a number."""
    parent.mkdir(parents=True, exist_ok=True)
    attempt = 0
    while True:
        path = parent / (f"{name}-{attempt}" if attempt else name)
        with suppress(FileExistsError):
            path.mkdir()
            return path
        attempt += 1


def sweep_launches(launches: Path, *, keep: int) -> None:
    """Remove the launch directories of children whose flows are gone, all but the newest few."""
    paths = [path for path in launches.glob("*") if path.is_dir()]
    paths.sort(key=lambda path: path.stat().st_mtime)
    for path in paths[: max(0, len(paths) - keep)]:
        if not _is_locked(path / LOCK_NAME):
            shutil.rmtree(path, ignore_errors=True)  # another flow may sweep at the same time


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child: ask first, so that it can save its work, then kill it."""
    if process.poll() is not None:
        return
    logger.warning("stopping child process %d", process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
