"""Child processes of the stages: start one, watch it, and never leave it behind.

Called from the main thread of a flow, where the TerminationSignal of a cancelled Prefect run and a
Ctrl-C arrive as exceptions: both stop the child before they go on.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from model.config import Config
from model.errors import ChildError
from model.run_config import RESULT_NAME
from model.store import Work, write_synced
from tasks.pipeline import project_root

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GRACE_SECONDS = 22  # below the 30 s Prefect waits before it kills, above a checkpoint's time
LOG_TAIL_LINES = 15
PR_SET_PDEATHSIG = 1  # linux/prctl.h
CONFIG_NAME = "config.json"
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
        self.directory = launches / f"{work.path.stem}-{os.getpid()}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / CONFIG_NAME
        self.log = self.directory / "child.log"
        write_synced(self.config, config.model_dump_json(indent=1).encode())

    def run(
        self,
        module: str,
        *,
        launcher: tuple[str, ...] = (),
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Run ``python [launcher] -m module --config ...`` to its end.

        Args:
            launcher: interpreter arguments in front of the module, such as torchrun's.
            watch: called about twice a second while the child runs.

        Raises:
            ChildError: the child ended with another exit code than zero.
        """
        command = [sys.executable, *launcher, "-m", module, "--config", str(self.config)]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=project_root(),
                env=CHILD_ENVIRONMENT | os.environ,
                preexec_fn=_end_with_parent,
            )
            try:
                while process.poll() is None:
                    time.sleep(POLL_SECONDS)
                    if watch:
                        watch()
            except BaseException:
                stop(process)
                raise
        if process.returncode:
            raise self._failure(module, process.returncode)
        shutil.rmtree(self.directory)

    def _failure(self, module: str, code: int) -> ChildError:
        result = self.directory / RESULT_NAME
        said = json.loads(result.read_bytes()) if result.exists() else {}
        if said.get("state") == "interrupted":
            return ChildError(
                f"{module} was asked to stop and saved its work at step {said['step']}",
                fix="run again: it goes on from there",
            )
        report = said.get("error")
        if report:
            return ChildError(
                f"{module} stopped: {report['problem']}",
                **{part: report.get(part) for part in ("expected", "found", "where", "fix")},
            )
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return ChildError(
            f"{module} ended with exit code {code}",
            expected="exit code 0",
            found="\n    ".join(["its last lines were", *lines]),
            where=self.log,
            fix="mend what its message names and run again: finished stages and checkpoints are "
            "kept",
        )


def _end_with_parent() -> None:
    """Let the kernel end this new process, torchrun's agent included, when the flow is killed.

    Linux only; elsewhere a killed flow leaves its child, whose lock keeps a second run waiting.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


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
