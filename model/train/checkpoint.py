"""Checkpoints: the full state of a training, for exact resume.

    checkpoints/step-00000500/
        model.safetensors      weights, and architecture.json beside them: loads as a model
        optimizer.safetensors  tensors of the optimizer's state
        state.json             CheckpointState: loop, random generators, the optimizer's rest
        checkpoint.json        written last: step, derivation key, sha256 of the other files
        validation.json        after the validation of its step, if there was one: the loss

A checkpoint is written under a temporary name, synced and renamed, so a kill leaves the previous
one. Nothing is pickled. Rank 0 writes, in a thread beside the training; every rank reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.core.config import Config
from model.core.errors import ArtifactError, CheckpointError, DiskSpaceError, is_disk_full
from model.core.files import file_sha256, sync, write_synced
from model.network.gpt import GPT
from model.network.weights import load_model, save_weights
from model.train.snapshot import CheckpointState, LoopState, Snapshot, join_tensors

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
OPTIMIZER_NAME = "optimizer.safetensors"
SEAL_NAME = "checkpoint.json"
VALIDATION_NAME = "validation.json"
CHECKPOINT_PATTERN = "step-" + "[0-9]" * 8
FULL_DISK_WORDS = f"(os error {errno.ENOSPC})"  # how safetensors reports it: no errno, only text


class Seal(Config):
    """The content of ``checkpoint.json``: owner and digests of the files."""

    format_version: int = 1
    derivation_key: str
    step: int
    sha256: dict[str, str]
    taken_from: str | None = None  # derivation key of the training that wrote it, if not this one


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, a directory for each."""

    directory: Path
    derivation_key: str  # of the training; checkpoints of others are refused
    keep: int  # how many of the newest stay, beside the best and the pre-decay one
    flat_steps: int = 0  # the last checkpoint at or before this step is the pre-decay one: it stays

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, damaged ones too, oldest first."""
        paths = self.directory.glob(CHECKPOINT_PATTERN)
        return sorted(int(path.name.removeprefix("step-")) for path in paths)

    def write(self, snapshot: Snapshot) -> int:
        """Write a checkpoint, delete those no longer kept, and return its step.

        Raises:
            DiskSpaceError: the disk is full; earlier checkpoints are unchanged.
        """
        with self._publishing(snapshot.step) as directory:
            host = snapshot.to_host()
            save_weights(host.weights, host.architecture, directory)
            save_file(host.optimizer, directory / OPTIMIZER_NAME)
            write_synced(directory / STATE_NAME, host.state.model_dump_json().encode())
            self._seal(directory, step=snapshot.step)
        self._drop()
        return snapshot.step

    def take_over(self, source: Path, *, step: int) -> None:
        """Copy a checkpoint of another training, and seal it as one of this training.

        Raises:
            CheckpointError: it is damaged.
            DiskSpaceError: the disk is full.
        """
        seal = _read_seal(source)
        damage = _damage(source, seal)
        if seal is None or damage:
            raise CheckpointError(
                "a checkpoint to continue from is damaged", found=damage, where=source
            )
        with self._publishing(step) as directory:
            for name in seal.sha256:
                shutil.copyfile(source / name, directory / name)
            self._seal(directory, step=step, taken_from=seal.taken_from or seal.derivation_key)

    @contextlib.contextmanager
    def _publishing(self, step: int) -> Iterator[Path]:
        """Yield a temporary directory that becomes the checkpoint of a step by one rename."""
        target = self.path(step)
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with _naming_full_disk(temporary):
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():  # a damaged one
                shutil.rmtree(target)
            temporary.rename(target)
            sync(self.directory)

    def _seal(self, directory: Path, *, step: int, taken_from: str | None = None) -> None:
        paths = sorted(directory.iterdir())
        for path in paths:
            sync(path)
        seal = Seal(
            derivation_key=self.derivation_key,
            step=step,
            sha256={path.name: file_sha256(path) for path in paths},
            taken_from=taken_from,
        )
        write_synced(directory / SEAL_NAME, seal.model_dump_json(indent=1).encode())

    def mark_validated(self, step: int, *, loss: float) -> None:
        """Record the validation loss beside the checkpoint of a step, if there is one."""
        if self.path(step).is_dir():
            with _naming_full_disk(self.path(step) / VALIDATION_NAME):
                write_synced(self.path(step) / VALIDATION_NAME, json.dumps(loss).encode())
            self._drop()

    def best(self) -> int | None:
        """Return the step of the checkpoint with the lowest recorded validation loss."""
        losses = {}
        for step in self.steps():
            with contextlib.suppress(OSError, ValueError):
                losses[step] = float(json.loads((self.path(step) / VALIDATION_NAME).read_text()))
        return min(losses, key=losses.__getitem__) if losses else None

    def pre_decay(self) -> int | None:
        """Return the step of the last checkpoint before the learning rate decays."""
        return max((step for step in self.steps() if step <= self.flat_steps), default=None)

    def _drop(self) -> None:
        kept = {*self.steps()[-self.keep :], self.best(), self.pre_decay()}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.path(step))

    def newest(self) -> int | None:
        """Return the step of the newest intact checkpoint; damaged ones are logged and removed.

        Raises:
            CheckpointError: it belongs to another training.
        """
        for leftover in self.directory.glob("step-*.tmp"):
            shutil.rmtree(leftover)
        for step in reversed(self.steps()):
            path = self.path(step)
            seal = _read_seal(path)
            if seal and seal.derivation_key != self.derivation_key:
                raise CheckpointError(
                    "the checkpoint belongs to another training",
                    expected=f"derivation {self.derivation_key}",
                    found=f"derivation {seal.derivation_key}",
                    where=path,
                    fix="delete it, or continue with the config and data it was made with",
                )
            damage = _damage(path, seal)
            if damage is None:
                return step
            logger.warning(
                "checkpoint %s is damaged (%s): falling back to the previous one", path, damage
            )
            shutil.rmtree(path)  # it would count among those kept
        return None

    def load(self, step: int, model: GPT, optimizer: torch.optim.Optimizer) -> LoopState:
        """Restore model, optimizer and random generators; return the loop state.

        Raises:
            CheckpointError: it cannot be read, or does not fit this model and optimizer.
        """
        path = self.path(step)
        try:
            model.load_state_dict(load_model(path).state_dict())
            state = CheckpointState.model_validate_json((path / STATE_NAME).read_bytes())
            tensors = load_file(path / OPTIMIZER_NAME)
            optimizer.load_state_dict(join_tensors(tensors, state.optimizer))
        except (OSError, ArtifactError, SafetensorError, RuntimeError, ValueError) as exc:
            raise CheckpointError(
                "a checkpoint does not fit this training",
                expected="weights and optimizer state of the model in the config",
                found=exc,
                where=path,
                fix="delete the checkpoint; training continues from the previous one",
            ) from exc
        state.random.restore()
        return dataclasses.replace(state.loop)


class CheckpointWriter:
    """Writes the checkpoints of one training in a thread, one at a time.

    The training's own thread takes the snapshot. A failure to write is raised there, at the latest
    with the next checkpoint or at the end of the context, which waits for the thread.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._jobs: list[Future[int | None]] = []

    def begin(
        self, model: GPT, optimizer: torch.optim.Optimizer, loop: LoopState, *, num_processes: int
    ) -> None:
        """Take a snapshot and start to write it; call ``finished`` or ``wait`` first.

        Two at once would hold three copies of the training's state in memory.
        """
        assert not self._jobs, "the previous checkpoint is still being written"
        snapshot = Snapshot.take(model, optimizer, loop, num_processes=num_processes)
        self._jobs.append(self._pool.submit(self.checkpoints.write, snapshot))

    def mark_validated(self, step: int, *, loss: float) -> None:
        """Record a validation loss with the checkpoint of its step, once that is written."""
        self._jobs.append(self._pool.submit(self.checkpoints.mark_validated, step, loss=loss))

    def finished(self) -> list[int]:
        """Return the steps of checkpoints finished since the last call.

        Raises:
            DiskSpaceError: the disk is full; earlier checkpoints are unchanged.
        """
        return self._collect([job for job in self._jobs if job.done()])

    def wait(self) -> list[int]:
        """Wait for pending writes, and return the steps of checkpoints that they finished.

        Raises:
            DiskSpaceError: the disk is full; earlier checkpoints are unchanged.
        """
        return self._collect(self._jobs)

    def _collect(self, jobs: list[Future[int | None]]) -> list[int]:
        self._jobs = [job for job in self._jobs if job not in jobs]
        results = [job.result() for job in jobs]
        return [step for step in results if step is not None]

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            logger.error("the last checkpoint was not written either: %s", failure)  # noqa: TRY400
        finally:
            self._pool.shutdown()


def _read_seal(path: Path) -> Seal | None:
    try:
        return Seal.model_validate_json((path / SEAL_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def _damage(path: Path, seal: Seal | None) -> str | None:
    if seal is None:
        return f"{SEAL_NAME} cannot be read"
    for name, expected in seal.sha256.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_sha256(path / name) != expected:
            return f"{name} holds other bytes than were written"
    return None


@contextlib.contextmanager
def _naming_full_disk(directory: Path) -> Iterator[None]:
    """Turn a full disk into a ``DiskSpaceError``, and remove the unfinished checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as exc:
        if not is_disk_full(exc) and FULL_DISK_WORDS not in str(exc):
            raise
        shutil.rmtree(directory, ignore_errors=True)
        raise DiskSpaceError(
            "the disk filled up while a checkpoint was written",
            found=f"{shutil.disk_usage(directory.parent).free} bytes free",
            where=directory,
            fix="free some space and run again: training continues from the previous checkpoint; "
            "train.keep_checkpoints limits how many are kept",
        ) from exc
