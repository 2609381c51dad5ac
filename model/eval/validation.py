"""Validation: cross-entropy of held-out text, in nats per token and bits per byte.

Targets without bytes of text, such as special tokens, are masked in both metrics. Sums are kept, so
that parts of several processes can be added before the division.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.config.network import AttentionScope
from model.core.errors import TrainingError
from model.data.shards import ShardSet
from model.network.gpt import GPT
from model.network.losses import next_token_loss


def bits_per_byte(nll_nats: float, *, num_bytes: int) -> float:
    """Return a negative log-likelihood as bits per byte of the text it was summed over.

    Example:
        >>> bits_per_byte(math.log(2), num_bytes=4)
        0.25
    """
    return nll_nats / math.log(2) / num_bytes


@dataclass(frozen=True)
class Evaluation:
    """Sums over the targets of some rows."""

    nll_nats: float
    num_targets: int
    num_bytes: int

    def __add__(self, other: Evaluation) -> Evaluation:
        """Return the evaluation of both sets of rows together."""
        return Evaluation(
            nll_nats=self.nll_nats + other.nll_nats,
            num_targets=self.num_targets + other.num_targets,
            num_bytes=self.num_bytes + other.num_bytes,
        )

    @property
    def loss(self) -> float:
        """Nats per token."""
        self._require_text()
        return self.nll_nats / self.num_targets

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text; comparable between tokenizers on the same text."""
        self._require_text()
        return bits_per_byte(self.nll_nats, num_bytes=self.num_bytes)

    def _require_text(self) -> None:
        if not self.num_bytes:
            raise TrainingError(
                "there is nothing to evaluate",
                expected="validation rows with at least one token of text",
                found=f"{self.num_targets} targets, {self.num_bytes} bytes",
                fix="hold out more documents (validation.num_documents)",
            )


def evaluate(
    model: GPT,
    shards: ShardSet,
    bytes_per_token: npt.NDArray[np.int32],
    *,
    attention: AttentionScope = "causal",
    max_tokens: int | None = None,
    batch_rows: int = 16,
    rank: int = 0,
    world_size: int = 1,
) -> Evaluation:
    """Return this process's part of an evaluation; the sum over all ranks is the whole.

    The rows are always the first of the set. The caller's autocast applies.

    Args:
        bytes_per_token: of the tokenizer that made the shards, 0 for special tokens.
        attention: scope of the training; ``document``: a token attends to its own document only.
        max_tokens: limit of the rows' tokens, at least one row; unset = all rows.
        rank: this process evaluates every ``world_size``-th row from here.
    """
    num_rows = shards.num_rows
    if max_tokens is not None:
        num_rows = min(num_rows, max(1, max_tokens // shards.context_tokens))
    rows = range(rank, num_rows, world_size)
    total = Evaluation(nll_nats=0.0, num_targets=0, num_bytes=0)
    with torch.inference_mode():
        for start in range(0, len(rows), batch_rows):
            batch = rows[start : start + batch_rows]
            total += _evaluate_rows(model, shards, bytes_per_token, rows=batch, attention=attention)
    return total


def _evaluate_rows(
    model: GPT,
    shards: ShardSet,
    bytes_per_token: npt.NDArray[np.int32],
    *,
    rows: Sequence[int],
    attention: AttentionScope,
) -> Evaluation:
    block = shards.rows(rows)
    sizes = bytes_per_token[block.ids] * block.mask
    counted = sizes > 0
    device = model.head_weight.device
    ids = torch.from_numpy(block.ids.astype(np.int64)).to(device)
    documents = torch.from_numpy(block.documents).to(device) if attention == "document" else None
    loss = next_token_loss(model, ids, torch.from_numpy(counted).to(device), documents)
    return Evaluation(
        nll_nats=loss.item(), num_targets=int(counted.sum()), num_bytes=int((sizes * counted).sum())
    )
