"""Writes checkpoints while training goes on: one thread, one checkpoint at a time.

The training's own thread takes the snapshot and hears how earlier writing went, at the latest with
the next checkpoint and at its end. ``model.train.checkpoint`` owns the files.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from model.network.gpt import GPT
from model.train.checkpoint import Checkpoints
from model.train.snapshot import LoopState, Snapshot

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """The writing thread of one training's checkpoints.

    As a context it waits at its end for what is under way, whatever else happened.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._jobs: list[Future[int | None]] = []

    def begin(
        self, model: GPT, optimizer: torch.optim.Optimizer, loop: LoopState, *, num_processes: int
    ) -> None:
        """Take a snapshot and start to write it; ``finished`` or ``wait`` first, for the last one.

        Two at once would hold three copies of the training's state in memory.
        """
        assert not self._jobs, "the checkpoint before is still being written"
        snapshot = Snapshot.take(model, optimizer, loop, num_processes=num_processes)
        self._jobs.append(self._pool.submit(self._write, snapshot))

    def _write(self, snapshot: Snapshot) -> int:
        self.checkpoints.write(snapshot)
        return snapshot.step

    def mark_validated(self, step: int, *, loss: float) -> None:
        """Note a validation loss with the checkpoint of its step, once that is written."""
        self._jobs.append(self._pool.submit(self._mark, step, loss))

    def _mark(self, step: int, loss: float) -> None:
        self.checkpoints.mark_validated(step, loss=loss)

    def finished(self) -> list[int]:
        """Return the steps of checkpoints that have become whole since last asked.

        Raises:
            DiskSpaceError: the disk is full; the checkpoints before are as they were.
        """
        done = [job for job in self._jobs if job.done()]
        self._jobs = [job for job in self._jobs if not job.done()]
        return _steps(done)

    def wait(self) -> list[int]:
        """Wait for what is under way, and return the steps of checkpoints that became whole.

        Raises:
            DiskSpaceError: the disk is full; the checkpoints before are as they were.
        """
        done, self._jobs = self._jobs, []
        return _steps(done)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            logger.error("and the last checkpoint was not written: %s", failure)  # noqa: TRY400
        finally:
            self._pool.shutdown()


def _steps(jobs: list[Future[int | None]]) -> list[int]:
    results = [job.result() for job in jobs]
    return [step for step in results if step is not None]
