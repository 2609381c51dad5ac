"""Snapshot of a training's state, written while training continues.

``Snapshot.take`` copies tensors on their device, ``to_host`` moves them to memory in the thread
that writes them. ``model.train.checkpoint`` owns the files.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from model.config.network import Architecture
from model.core.config import Config
from model.network.gpt import GPT
from model.train.loader import LoaderState
from model.train.spike_guard import SpikeGuardState


class MicroBatch(Config):
    """Rows of a micro-batch: configured, and used for lack of memory."""

    asked: int
    used: int


@dataclass
class LoopState:
    """State of the training loop beside weights and optimizer; saved whole."""

    loader: LoaderState
    step: int = 0  # optimizer steps done, skipped ones too
    tokens: int = 0  # positions the model was trained on, padding included
    targets: int = 0  # unmasked ones
    best_validation_loss: float | None = None
    guard: SpikeGuardState = field(default_factory=SpikeGuardState)
    micro_batch: MicroBatch | None = None


class RandomState(Config):
    """State of the process-wide random generators; training draws from none of them."""

    python: list[Any]
    numpy: list[Any]
    torch: str = Field(description="hex digits")

    @classmethod
    def take(cls) -> RandomState:
        """Return the present state."""
        kind, keys, *rest = np.random.get_state()
        return cls(
            python=list(random.getstate()),
            numpy=[kind, np.asarray(keys).tolist(), *rest],
            torch=bytes(torch.get_rng_state().tolist()).hex(),
        )

    def restore(self) -> None:
        """Restore this state."""
        version, numbers, gauss = self.python
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(tuple(self.numpy))
        torch.set_rng_state(torch.tensor(list(bytes.fromhex(self.torch)), dtype=torch.uint8))


class CheckpointState(Config):
    """The part of a checkpoint that is not tensors."""

    loop: LoopState
    random: RandomState
    optimizer: dict[str, Any] = Field(description="state_dict less its tensors")
    num_processes: int = Field(description="when it was written; a resumed run may have others")


@dataclass(frozen=True)
class Snapshot:
    """Copies of everything a checkpoint holds."""

    architecture: Architecture
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: CheckpointState
    is_copied: torch.cuda.Event | None = None  # set while copies may be pending

    @property
    def step(self) -> int:
        """Steps done when it was taken."""
        return self.state.loop.step

    @classmethod
    def take(
        cls, model: GPT, optimizer: torch.optim.Optimizer, loop: LoopState, *, num_processes: int
    ) -> Snapshot:
        """Copy the present state of a training."""
        tensors, rest = split_tensors(optimizer.state_dict())
        weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}
        moments = {name: _copy(tensor) for name, tensor in tensors.items()}
        is_copied = None
        if any(tensor.is_cuda for tensor in weights.values()):
            is_copied = torch.cuda.Event()
            is_copied.record()
        state = CheckpointState(
            loop=dataclasses.replace(loop),
            random=RandomState.take(),
            optimizer=rest,
            num_processes=num_processes,
        )
        return cls(model.architecture, weights, moments, state, is_copied)

    def to_host(self) -> Snapshot:
        """Return the snapshot with its tensors in memory, waiting for the copies only."""
        if self.is_copied is None:
            return self
        device = next(item.device for item in self.weights.values() if item.is_cuda)
        stream = torch.cuda.Stream(device)  # not the one of training
        stream.wait_event(self.is_copied)
        with torch.cuda.stream(stream):
            weights, optimizer = (
                {name: tensor.cpu() for name, tensor in tensors.items()}
                for tensors in (self.weights, self.optimizer)
            )
        return Snapshot(self.architecture, weights, optimizer, self.state)


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor on its device, or to memory when a GPU has no room."""
    try:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    except torch.OutOfMemoryError:
        return tensor.detach().cpu().contiguous()


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
                tensors[f"{index}.{name}"] = value.detach()
            else:
                numbers[str(index)][name] = value
    groups = [dict(group) for group in state_dict["param_groups"]]
    return tensors, {"state": numbers, "param_groups": groups}


def join_tensors(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """Return the ``state_dict`` that ``split_tensors`` took apart."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(numbers) for index, numbers in rest["state"].items()
    }
    for key, tensor in tensors.items():
        index, name = key.split(".", maxsplit=1)
        state[int(index)][name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}
