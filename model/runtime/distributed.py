"""Distributed training: rank and device of a process, collectives, stop signals.

Started by torchrun, a process reads its rank from the environment; started alone, it is rank 0 of
1 and has no process group. Rank 0 decides whether there is anything to train, which may take as
long as another run holds the artifact's lock: the others wait for its decision at the rendezvous
store, and only then the process group is made. So no collective is under way while rank 0 waits,
and collective time-outs stay short enough to notice a dead peer.

When a process dies, torchrun restarts all of them. An attempt must not read the store entries of
the previous one: either rank 0 holds the store, which ends with it, or torchrun's agent does, and
each attempt prefixes its keys.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from model.core.errors import ConfigError

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT = timedelta(minutes=15)  # longer than any checkpoint rank 0 writes alone
DECISION_TIMEOUT = timedelta(days=30)  # another run may be making the same artifact
DECISION_KEY = "decision"
RECEIVED_KEY = "received"
ATTEMPT_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class DistributedContext:
    """Rank, device and launch of this process in a distributed training."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = CPU
    launch: str | None = None  # torchrun's id, the same in all attempts
    num_restarts_left: int = 0  # by torchrun, of all processes

    @classmethod
    def from_environment(cls) -> DistributedContext:
        """Return the context torchrun describes in the environment, or that of a lone process."""
        local_rank = _number("LOCAL_RANK")
        return cls(
            rank=_number("RANK"),
            size=_number("WORLD_SIZE", 1),
            local_rank=local_rank,
            local_size=_number("LOCAL_WORLD_SIZE", 1),
            device=torch.device("cuda", local_rank) if torch.cuda.is_available() else CPU,
            launch=os.environ.get("TORCHELASTIC_RUN_ID"),
            num_restarts_left=_number("TORCHELASTIC_MAX_RESTARTS") - _number(ATTEMPT_VARIABLE),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0

    def _require_devices(self) -> None:
        """Check that every local process has a device of its own."""
        if self.device.type == "cuda" and torch.cuda.device_count() < self.local_size:
            raise ConfigError(
                "there are fewer GPUs than training processes",
                expected=f"{self.local_size} GPUs (train.processes)",
                found=f"{torch.cuda.device_count()} GPUs",
                fix="lower train.processes, or set it to 0: one process per GPU",
            )

    @cached_property
    def _store(self) -> Store:
        store, _, _ = next(iter(rendezvous("env://")))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):  # it outlives the attempt
            return PrefixStore(f"attempt-{_number(ATTEMPT_VARIABLE)}", store)
        return store

    def meet(self) -> None:
        """Connect to the rendezvous store, which rank 0 may open."""
        if self.size > 1:
            _ = self._store

    def announce(self, decision: str) -> None:
        """Send rank 0's decision to the other processes, and wait until they have received it."""
        if self.size > 1:
            self._store.set(DECISION_KEY, decision)
            others = [f"{RECEIVED_KEY}-{rank}" for rank in range(1, self.size)]
            self._store.wait(others, COLLECTIVE_TIMEOUT)

    def await_decision(self) -> str:
        """Wait for rank 0's decision and return it."""
        self._store.wait([DECISION_KEY], DECISION_TIMEOUT)
        decision = self._store.get(DECISION_KEY).decode()
        self._store.set(f"{RECEIVED_KEY}-{self.rank}", "")
        return decision

    @contextlib.contextmanager
    def process_group(self) -> Iterator[None]:
        """Create the process group; after an error, when peers may be gone, it is not destroyed."""
        self._require_devices()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.size == 1:
            yield
            return
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        yield
        self.sum(0)  # a barrier: no rank leaves while others communicate
        dist.destroy_process_group()

    def leave(self, exit_status: int) -> None:
        """Exit; one of several processes skips the interpreter's finalisation.

        DDP keeps gloo's threads beyond ``destroy_process_group``, and one that frees its last
        tensor during finalisation aborts the process (torch 2.13): torchrun would fail a finished
        training.
        """
        if self.size == 1:
            sys.exit(exit_status)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_status)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over processes; itself in a lone process."""
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=ids,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # rotary angles are equal on every rank
        )

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over processes, in place, without synchronising with the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum(self, value: int) -> int:
        """Sum an integer over processes, on the CPU, without synchronising with the device."""
        if self.size == 1:
            return value
        return int(self.sum_tensor(torch.tensor(value, dtype=torch.int64)).item())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self.sum(int(flag)) > 0

    def from_main(self, value: int | None) -> int:
        """Return rank 0's value in all processes."""
        return self.sum((value or 0) if self.is_main else 0)


def _number(variable: str, default: int = 0) -> int:
    return int(os.environ.get(variable, default))


class StopRequest:
    """Records SIGTERM and SIGINT instead of dying from them.

    The loop asks ``is_set`` at step boundaries, where it can save before it stops. As a context, it
    gives the signals back at its end.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        return self

    def listen(self) -> None:
        """Handle the two signals until the end of the block; for the main thread only."""
        for kind in (signal.SIGTERM, signal.SIGINT):
            self._before[kind] = signal.signal(kind, self._note)

    def __exit__(self, *_exc: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        logger.info("%s: stopping after this step", signal.Signals(number).name)
