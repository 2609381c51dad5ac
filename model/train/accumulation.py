"""Gradient accumulation over the micro-batches of a global batch.

The number of rows of a micro-batch only changes memory: the loss is a mean over the whole batch of
all processes. Called by ``model.train.trainer``.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.core.errors import TrainingError
from model.runtime.distributed import DistributedContext
from model.train.loader import Batch, whole_groups

logger = logging.getLogger(__name__)

CPU_ALLOCATOR_WORDS = "can't allocate memory"  # torch.OutOfMemoryError is for devices only


class Accumulator:
    """Accumulates the gradients of a global batch.

    Args:
        row_loss: the sums of an ``Objective``; its parameters take the gradients.
        rows: of a micro-batch, at most.
        rows_per_group: rows that stay in one micro-batch.
    """

    def __init__(
        self,
        row_loss: nn.Module,
        *,
        distributed: DistributedContext,
        dtype: torch.dtype,
        rows: int,
        rows_per_group: int = 1,
    ) -> None:
        self.distributed, self.dtype, self.rows_per_group = distributed, dtype, rows_per_group
        self._rows = whole_groups(rows, rows_per_group=rows_per_group)
        self._alone = row_loss
        self._together = distributed.wrap(self._alone)

    @property
    def rows(self) -> int:
        """Largest number of rows of a micro-batch: whole row groups."""
        return self._rows

    @rows.setter
    def rows(self, rows: int) -> None:
        self._rows = whole_groups(rows, rows_per_group=self.rows_per_group)

    def backward(self, batch: Batch, *, num_terms: int) -> Float[Tensor, " M"]:
        """Accumulate the gradient of the global mean loss; return the means of the ``measures``.

        Args:
            num_terms: in the mean loss of the global batch.
        """
        means = torch.zeros((), device=self.distributed.device)
        starts = range(0, len(batch.ids), self.rows)
        for start in starts:
            with self._exchanging(is_last=start == starts[-1]):
                sums = self._sums(self._together, batch, start)
                # Gradients are averaged over processes, the loss is a mean over all of them.
                (sums[0] * (self.distributed.size / num_terms)).backward()
            means = means + sums.detach() / num_terms
        return self.distributed.sum_tensor(means)

    def _sums(self, row_loss: nn.Module, batch: Batch, start: int) -> Float[Tensor, " M"]:
        device, rows = self.distributed.device, slice(start, start + self.rows)
        tensors = (
            None if item is None else item[rows].to(device, non_blocking=True)
            for item in (batch.ids, batch.mask, batch.documents)
        )
        with self.autocast():
            return row_loss(*tensors)

    def _exchanging(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context that synchronises gradients with the last micro-batch only."""
        if isinstance(self._together, nn.parallel.DistributedDataParallel) and not is_last:
            return self._together.no_sync()
        return contextlib.nullcontext()

    def autocast(self) -> torch.autocast:
        """Return the context that computes in the training's precision."""
        return torch.autocast(
            self.distributed.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def fit_into_memory(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Halve a micro-batch until it fits into every process's memory.

        All processes try together and agree on the number. No gradient stays.

        Raises:
            TrainingError: not even the fewest rows fit.
        """
        while self.distributed.any(_runs_out_of_memory(lambda: self._try(batch, optimizer))):
            gc.collect()  # tensors of the failed passes
            if self.distributed.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.rows == self.rows_per_group:
                group = "one row does" if self.rows == 1 else f"a group of {self.rows} rows does"
                raise TrainingError(
                    f"{group} not fit into memory",
                    expected="room for its forward and backward pass",
                    found="out of memory",
                    where=self.distributed.device,
                    fix="choose a smaller model.size or model.context_tokens",
                )
            self.rows //= 2

    def _try(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Run forward and backward twice, in the memory that a later step has.

        Memory is reserved for the optimizer's two moments, unless they exist, and on a CPU for a
        checkpoint being written (weights and moments); a GPU's checkpoint has its own fallback.
        """
        parameters = [item for item in self._alone.parameters() if item.requires_grad]
        copies = (0 if optimizer.state else 2) + (3 if self.distributed.device.type == "cpu" else 0)
        room = [torch.empty_like(item) for item in parameters for _ in range(copies)]
        try:
            for _ in range(2):  # the second time beside the gradients of the first
                loss = self._sums(self._alone, batch, 0)[0]
                loss.backward()
                loss.item()
        finally:
            del room
            optimizer.zero_grad(set_to_none=True)


def _runs_out_of_memory(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except (RuntimeError, MemoryError) as exc:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(exc):
            raise
        logger.info("%s", str(exc).partition("\n")[0] or repr(exc))
        return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the machine is out of memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR_WORDS in str(error)
    )
