"""Checkpoints: everything a killed training needs to go on as if nothing had happened.

    checkpoints/step-00000500/
        model.safetensors      weights, and architecture.json beside them: loads as a model
        optimizer.safetensors  tensors of the optimizer's state
        state.json             CheckpointState: loop, random generators, the optimizer's rest
        checkpoint.json        written last: step, derivation key, sha256 of the other files

A checkpoint is written under a temporary name, synced and renamed, so a kill leaves the one before.
Nothing is pickled. Rank 0 writes; every rank reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.batches import LoaderState
from model.config import Config
from model.errors import ArtifactError, CheckpointError, DiskSpaceError, is_disk_full
from model.gpt import GPT
from model.store import sha256_of, sync, write_synced
from model.weights import load_model, save_model

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
OPTIMIZER_NAME = "optimizer.safetensors"
SEAL_NAME = "checkpoint.json"
FULL_DISK_WORDS = f"(os error {errno.ENOSPC})"  # how safetensors reports it: no errno, only text


@dataclass
class LoopState:
    """What the training loop knows beside weights and optimizer; saved whole."""

    loader: LoaderState
    step: int = 0  # optimizer steps done
    tokens: int = 0  # positions the model was trained on, padding included
    targets: int = 0  # tokens whose prediction was trained
    best_validation_loss: float | None = None


class RandomState(Config):
    """The process-wide random generators. Training draws from none; later parts may."""

    python: list[Any]
    numpy: list[Any]
    torch: str = Field(description="hex digits")

    @classmethod
    def take(cls) -> RandomState:
        """Return the generators' present state."""
        kind, keys, *rest = np.random.get_state()
        return cls(
            python=list(random.getstate()),
            numpy=[kind, np.asarray(keys).tolist(), *rest],
            torch=bytes(torch.get_rng_state().tolist()).hex(),
        )

    def restore(self) -> None:
        """Put the generators back to this state."""
        version, numbers, gauss = self.python
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(tuple(self.numpy))
        torch.set_rng_state(torch.tensor(list(bytes.fromhex(self.torch)), dtype=torch.uint8))


class CheckpointState(Config):
    """The content of ``state.json``."""

    loop: LoopState
    random: RandomState
    optimizer: dict[str, Any] = Field(description="state_dict less its tensors")
    num_processes: int = Field(description="when it was written; another number may read it")


class Seal(Config):
    """The content of ``checkpoint.json``: whose it is, and what its files must be."""

    format_version: int = 1
    derivation_key: str
    step: int
    sha256: dict[str, str]


class Checkpoints:
    """The checkpoints of one training.

    Args:
        directory: holds one directory per checkpoint.
        derivation_key: of the training; checkpoints of another are refused.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: Path, *, derivation_key: str, keep: int) -> None:
        self.directory = directory
        self.derivation_key = derivation_key
        self.keep = keep

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, damaged ones too, oldest first."""
        paths = self.directory.glob("step-" + "[0-9]" * 8)
        return sorted(int(path.name.removeprefix("step-")) for path in paths)

    def save(
        self, model: GPT, optimizer: torch.optim.Optimizer, loop: LoopState, *, num_processes: int
    ) -> Path:
        """Write a checkpoint, drop the oldest ones, and return its directory.

        Raises:
            DiskSpaceError: the disk is full; the checkpoints before are as they were.
        """
        target = self.path(loop.step)
        temporary = target.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        with _full_disk_named(temporary):
            temporary.mkdir(parents=True)
            self._write(temporary, model, optimizer, loop, num_processes=num_processes)
            if target.exists():  # damaged, and made again
                shutil.rmtree(target)
            temporary.rename(target)
            sync(self.directory)
        self._drop_oldest()
        return target

    def _write(
        self,
        directory: Path,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        loop: LoopState,
        *,
        num_processes: int,
    ) -> None:
        save_model(model, directory)
        tensors, rest = split_tensors(optimizer.state_dict())
        save_file(tensors, directory / OPTIMIZER_NAME)
        state = CheckpointState(
            loop=loop, random=RandomState.take(), optimizer=rest, num_processes=num_processes
        )
        write_synced(directory / STATE_NAME, state.model_dump_json().encode())
        paths = sorted(directory.iterdir())
        for path in paths:
            sync(path)
        seal = Seal(
            derivation_key=self.derivation_key,
            step=loop.step,
            sha256={path.name: sha256_of(path) for path in paths},
        )
        write_synced(directory / SEAL_NAME, seal.model_dump_json(indent=1).encode())

    def _drop_oldest(self) -> None:
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(step))

    def newest(self) -> int | None:
        """Return the step of the newest whole checkpoint; the log names damaged ones it passes by.

        Raises:
            CheckpointError: it belongs to another training.
        """
        for leftover in self.directory.glob("step-*.tmp"):
            shutil.rmtree(leftover)
        for step in reversed(self.steps()):
            damage = self._damage(self.path(step))
            if damage is None:
                return step
            logger.warning(
                "checkpoint %s is damaged (%s): falling back to the one before",
                self.path(step),
                damage,
            )
            shutil.rmtree(self.path(step))  # or it would count among those kept
        return None

    def _damage(self, path: Path) -> str | None:
        try:
            seal = Seal.model_validate_json((path / SEAL_NAME).read_bytes())
        except (OSError, ValidationError) as exc:
            return f"{SEAL_NAME} cannot be read: {exc}".splitlines()[0]
        self._require_own(seal, where=path)
        for name, expected in seal.sha256.items():
            if not (path / name).is_file():
                return f"{name} is gone"
            if sha256_of(path / name) != expected:
                return f"{name} holds other bytes than were written"
        return None

    def _require_own(self, seal: Seal, *, where: Path) -> None:
        if seal.derivation_key != self.derivation_key:
            raise CheckpointError(
                "the checkpoint belongs to another training",
                expected=f"derivation {self.derivation_key}",
                found=f"derivation {seal.derivation_key}",
                where=where,
                fix="delete it, or go on with the config and data it was made with",
            )

    def load(self, step: int, model: GPT, optimizer: torch.optim.Optimizer) -> LoopState:
        """Put model, optimizer and random generators back to a checkpoint; return its loop state.

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
                fix="delete the checkpoint; training goes on from the one before",
            ) from exc
        state.random.restore()
        return dataclasses.replace(state.loop)


def split_tensors(state_dict: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's ``state_dict`` into named tensors and the JSON-ready rest.

    Example:
        State ``mean`` of parameter 3 becomes tensor ``3.mean``.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in state_dict["state"].items():
        numbers[str(index)] = {}
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers[str(index)][name] = value
    return tensors, {"state": numbers, "param_groups": state_dict["param_groups"]}


def join_tensors(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """Return the ``state_dict`` that ``split_tensors`` took apart."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(numbers) for index, numbers in rest["state"].items()
    }
    for key, tensor in tensors.items():
        index, name = key.split(".", maxsplit=1)
        state[int(index)][name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}


@contextlib.contextmanager
def _full_disk_named(directory: Path) -> Iterator[None]:
    """Turn a full disk into a ``DiskSpaceError``, and take the unfinished checkpoint away."""
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
            fix="free some space and run again: training goes on from the checkpoint before; "
            "train.keep_checkpoints says how many are kept",
        ) from exc
