"""Processes of one machine: how many cores they may use, and what ends them with their parent."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT_POLL_SECONDS = 1.0


def num_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that no rank is left behind."""
    prepare = parent_death_signal(signal.SIGKILL, parent=os.getppid())
    if prepare is None:
        logger.info("no PR_SET_PDEATHSIG on %s: this process outlives its parent", sys.platform)
    else:
        prepare()


def parent_death_signal(
    number: signal.Signals, *, parent: int | None = None
) -> Callable[[], None] | None:
    """Return a call by which a new process has the kernel signal it when its parent dies.

    None where the kernel is not Linux: there a child outlives a killed parent.

    Args:
        parent: its process id; unset = this process, for the ``preexec_fn`` of a child.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork
    expected = os.getpid() if parent is None else parent

    def prepare() -> None:
        if prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            logger.warning("prctl failed: %s", os.strerror(ctypes.get_errno()))
        elif os.getppid() != expected:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def watch_parent(parent: int) -> None:
    """Start a thread that exits this process when its parent ends, on any platform.

    For workers of a pool: the kernel watches their parent *thread*, which ends earlier.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
