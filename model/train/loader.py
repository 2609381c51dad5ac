"""Deterministic batches of training rows: order, mixture and prefetching.

Rows that belong together, such as a pair of answers, form a row group; a row by itself is one, too.
Every part of a mixture has an endless order: one permutation of its groups after another, each
drawn from seed, part and epoch alone. Parts interleave group by group, by weight. Batch g is the
g-th run of ``rows_per_step`` rows of that order, so it does not depend on the number of processes
or on the micro-batch; rank r of W reads every W-th group of it, from the r-th on. The reading
position is a ``LoaderState`` of a few integers. ``model.train.trainer`` is the caller;
``model.data.shards`` owns the files.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from model.config.network import AttentionScope
from model.core.artifact import canonical_json
from model.core.config import Config
from model.core.errors import ArtifactError, CheckpointError, TrainingError
from model.data.shards import ShardSet
from model.runtime.distributed import DistributedContext

BATCHES_AHEAD: Final = 2


@dataclass(frozen=True)
class Part:
    """One shard set of a mixture and its share of the rows."""

    shards: ShardSet
    weight: float = 1.0


class LoaderState(Config):
    """Reading position; saved with every checkpoint, and enough to continue with the next row."""

    fingerprint: str  # of the order: shard sets, weights and seed; another order is refused
    num_rows: int  # read over all parts since training began
    part_rows: tuple[int, ...]  # the same for each part


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch."""

    ids: Int[Tensor, "B T1"]
    mask: Bool[Tensor, "B T1"]
    num_targets: int  # of this rank's rows
    rows: npt.NDArray[np.int64]  # [rows_per_step, 2]: part and row of the whole global batch
    state: LoaderState  # after this batch
    documents: Int[Tensor, "B T1"] | None = None  # number of each token's document in its row


@dataclass(kw_only=True)
class BatchReader:
    """Reads global batches in the run's order; stateless.

    Raises:
        TrainingError: the shards hold fewer rows than one batch.
        ArtifactError: the rows of a part are not whole row groups.
    """

    parts: Sequence[Part] = field(kw_only=False)
    seed: int
    rows_per_step: int  # of a global batch, over all processes
    distributed: DistributedContext
    attention: AttentionScope = "causal"  # "document" adds the document of each token to batches
    rows_per_group: int = 1  # consecutive rows of the shards that are read together
    _orders: dict[tuple[int, int], npt.NDArray[np.int64]] = field(  # by part and epoch
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        num_rows = sum(part.shards.num_rows for part in self.parts)
        if num_rows < self.rows_per_step:
            context_tokens = self.parts[0].shards.context_tokens
            raise TrainingError(
                "the training shards hold fewer tokens than one batch",
                expected=f"at least {self.rows_per_step} rows of {context_tokens} tokens "
                f"(train.batch_tokens_per_step={self.rows_per_step * context_tokens})",
                found=f"{num_rows} rows",
                fix="prepare more documents, or lower train.batch_tokens_per_step",
            )
        for part in self.parts:
            require_whole_groups(part.shards, rows_per_group=self.rows_per_group)

    @property
    def fingerprint(self) -> str:
        """Identity of the order: readers with equal fingerprints read equal rows."""
        identity: dict[str, object] = {
            "parts": [[part.shards.fingerprint, part.weight] for part in self.parts],
            "seed": self.seed,
        }
        if self.rows_per_group > 1:
            identity["rows_per_unit"] = self.rows_per_group
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def start(self) -> LoaderState:
        """Return the state before the first row."""
        return LoaderState(
            fingerprint=self.fingerprint, num_rows=0, part_rows=(0,) * len(self.parts)
        )

    def stream(self, state: LoaderState, *, ahead: int = BATCHES_AHEAD) -> Generator[Batch]:
        """Yield batches without end; a thread prefetches the next ones.

        Args:
            ahead: prefetched batches; they only change memory.

        Raises:
            CheckpointError: ``state`` belongs to another order.
        """
        if state.fingerprint != self.fingerprint:
            raise CheckpointError(
                "the checkpoint belongs to another order of training rows",
                expected=f"order {self.fingerprint}",
                found=f"order {state.fingerprint}",
                fix="train from scratch, or use the shards, weights and seed of the checkpoint",
            )
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            last = pool.submit(self.read, state)
            reading = deque([last])
            try:
                while True:
                    while len(reading) <= ahead:
                        last = pool.submit(self._read_after, last)
                        reading.append(last)
                    yield reading.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _read_after(self, previous: Future[Batch]) -> Batch:
        return self.read(previous.result().state)  # done: one thread reads in order

    def read(self, state: LoaderState) -> Batch:
        """Return this rank's rows of the global batch that follows ``state``."""
        rows, after = self.next_rows(state)
        groups = rows.reshape(-1, self.rows_per_group, 2)
        own = groups[self.distributed.rank :: self.distributed.size].reshape(-1, 2)
        shape = (len(own), self.parts[0].shards.context_tokens + 1)
        ids = self._empty(shape, torch.int64)
        mask = self._empty(shape, torch.bool)
        documents = self._empty(shape, torch.int32) if self.attention == "document" else None
        for index, part in enumerate(self.parts):
            places = np.flatnonzero(own[:, 0] == index)
            block = part.shards.rows(own[places, 1])
            ids.numpy()[places] = block.ids
            mask.numpy()[places] = block.mask
            if documents is not None:
                documents.numpy()[places] = block.documents
        num_targets = int(np.count_nonzero(mask.numpy()))  # torch would wake its thread pool
        return Batch(ids, mask, num_targets, rows=rows, state=after, documents=documents)

    def next_rows(self, state: LoaderState) -> tuple[npt.NDArray[np.int64], LoaderState]:
        """Return part and row of each row of the next global batch, and the state after it."""
        weights = [part.weight for part in self.parts]
        counts = [num_rows // self.rows_per_group for num_rows in state.part_rows]
        num_groups = self.rows_per_step // self.rows_per_group
        owners = interleave(weights, taken=counts, num_groups=num_groups)
        rows = np.empty((num_groups, self.rows_per_group, 2), dtype=np.int64)
        rows[..., 0] = owners[:, None]
        for index in range(len(self.parts)):
            places = np.flatnonzero(owners == index)
            wanted = np.arange(counts[index], counts[index] + len(places))
            first = self._ordered_groups(wanted, part=index) * self.rows_per_group
            rows[places, :, 1] = first[:, None] + np.arange(self.rows_per_group)
            counts[index] += len(places)
        after = LoaderState(
            fingerprint=state.fingerprint,
            num_rows=state.num_rows + self.rows_per_step,
            part_rows=tuple(count * self.rows_per_group for count in counts),
        )
        return rows.reshape(-1, 2), after

    def num_epochs(self, num_steps: int) -> list[float]:
        """Return the epochs of each part in ``num_steps`` steps."""
        total = sum(part.weight for part in self.parts)
        rows = num_steps * self.rows_per_step
        return [rows * part.weight / total / part.shards.num_rows for part in self.parts]

    def _ordered_groups(self, places: npt.NDArray[np.int64], *, part: int) -> npt.NDArray[np.int64]:
        """Return the groups at some places of a part's order, across epoch boundaries."""
        num_groups = self._num_groups(part)
        groups = np.empty(len(places), dtype=np.int64)
        epochs = places // num_groups
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            groups[inside] = self._order(part, epoch)[places[inside] % num_groups]
        return groups

    def _num_groups(self, part: int) -> int:
        return self.parts[part].shards.num_rows // self.rows_per_group

    def _order(self, part: int, epoch: int) -> npt.NDArray[np.int64]:
        if (part, epoch) not in self._orders:
            self._orders.pop((part, epoch - 2), None)
            self._orders[part, epoch] = permutation(
                self._num_groups(part), seed=self.seed, part=part, epoch=epoch
            )
        return self._orders[part, epoch]

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory for a batch, pinned for a GPU so that copies overlap with compute."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.distributed.device.type == "cuda")


def interleave(
    weights: Sequence[float], *, taken: Sequence[int], num_groups: int
) -> npt.NDArray[np.int64]:
    """Return the part of each of the next groups: always the one furthest behind its share.

    Ties go to the first part; every part stays within one group of its share.

    Example:
        >>> interleave([2.0, 1.0], taken=[0, 0], num_groups=6).tolist()
        [0, 1, 0, 0, 1, 0]
    """
    if len(weights) == 1:
        return np.zeros(num_groups, dtype=np.int64)
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    counts = np.asarray(taken, dtype=np.int64).copy()
    owners = np.empty(num_groups, dtype=np.int64)
    start = int(counts.sum())
    for offset in range(num_groups):
        owner = int(np.argmax(shares * (start + offset + 1) - counts))
        owners[offset] = owner
        counts[owner] += 1
    return owners


def permutation(num_groups: int, *, seed: int, part: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return one epoch's order of a part's groups.

    Sorts raw Philox numbers, whose stream numpy keeps stable, unlike that of its shuffle.
    """
    bits = np.random.Philox(key=(seed << 64) | (part << 32) | epoch)
    order = np.argsort(bits.random_raw(num_groups), kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def require_whole_groups(shards: ShardSet, *, rows_per_group: int) -> None:
    """Check that the rows of a shard set form whole row groups.

    Raises:
        ArtifactError: the last group lacks a row.
    """
    if shards.num_rows % rows_per_group:
        raise ArtifactError(
            "a row group of the shards is incomplete",
            expected=f"a multiple of {rows_per_group} rows",
            found=f"{shards.num_rows} rows",
            where=shards.directory,
            fix="give shards of pairs of answers, or delete the artifact and let its stage run "
            "again",
        )


def whole_groups(num_rows: int, *, rows_per_group: int) -> int:
    """Return the largest multiple of the row group up to ``num_rows``; at least one group.

    Example:
        >>> [whole_groups(num_rows, rows_per_group=2) for num_rows in (1, 4, 5)]
        [2, 4, 4]
    """
    return max(1, num_rows // rows_per_group) * rows_per_group
