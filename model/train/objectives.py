"""What a training minimises, and how that is measured on held-out rows.

    NextToken     cross-entropy of each target; validation in nats per token and bits per byte
    Preferences   the loss of pairs of answers; validation by pairs

The loop knows an ``Objective`` and neither of them: ``model.train.setup`` makes the one that a
run asks for. Everything that is summed is summed over rows first, so that micro-batches and
processes add up before anything is divided.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.config.network import AttentionScope
from model.data.shards import ShardSet
from model.eval.validation import Evaluation, evaluate
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.train.dpo import ROWS_PER_PAIR, PreferenceLoss, answer_log_probs, reward_margins


class Objective(Protocol):
    """What the loop asks of an objective.

    Attributes:
        row_loss: takes rows as ``ids, mask, documents`` and returns the sums of ``measures``.
        measures: names of these sums; the first is the loss and has a gradient.
    """

    row_loss: nn.Module
    measures: tuple[str, ...]

    def num_terms(self, *, num_targets: int, num_rows: int) -> int:
        """Return what the loss of a global batch is a mean over."""
        ...

    def evaluate(
        self, *, max_tokens: int, batch_rows: int, rank: int, world_size: int
    ) -> Float[Tensor, " S"]:
        """Return one process's sums over its share of the held-out rows."""
        ...

    def metrics(self, sums: Float[Tensor, " S"]) -> dict[str, float]:
        """Return the metrics of all processes' sums; ``validation/loss`` is among them."""
        ...


class NextTokenLoss(nn.Module):
    """The loss as one module, so that whatever part of the model it uses is synchronised."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Int[Tensor, "B T1"],
        mask: Bool[Tensor, "B T1"],
        documents: Int[Tensor, "B T1"] | None,
    ) -> Float[Tensor, " M"]:
        """Return the summed negative log-likelihood of the unmasked targets."""
        return next_token_loss(self.model, ids, mask, documents)[None]


class NextToken:
    """Next-token cross-entropy, a mean over all targets.

    Args:
        validation: the held-out rows.
        bytes_per_token: of the tokenizer that made them.
        attention: what a token of a held-out row sees: what it sees in training.
    """

    def __init__(
        self,
        model: GPT,
        *,
        validation: ShardSet,
        bytes_per_token: npt.NDArray[np.int32],
        attention: AttentionScope = "causal",
    ) -> None:
        self.row_loss: nn.Module = NextTokenLoss(model)
        self.measures: tuple[str, ...] = ("loss",)
        self._model, self._validation, self._bytes_per_token = model, validation, bytes_per_token
        self._attention: AttentionScope = attention

    def num_terms(self, *, num_targets: int, num_rows: int) -> int:  # noqa: ARG002
        """Return the number of targets."""
        return num_targets

    def evaluate(
        self, *, max_tokens: int, batch_rows: int, rank: int, world_size: int
    ) -> Float[Tensor, " S"]:
        """Return nats, targets and bytes of this process's held-out rows."""
        share = evaluate(
            self._model,
            self._validation,
            self._bytes_per_token,
            attention=self._attention,
            max_tokens=max_tokens,
            batch_rows=batch_rows,
            rank=rank,
            world_size=world_size,
        )
        return torch.tensor(
            [share.nll_nats, share.num_targets, share.num_bytes], dtype=torch.float64
        )

    def metrics(self, sums: Float[Tensor, " S"]) -> dict[str, float]:
        """Return loss and bits per byte."""
        nll_nats, num_targets, num_bytes = sums.tolist()
        total = Evaluation(nll_nats, int(num_targets), int(num_bytes))
        return {"validation/loss": total.loss, "validation/bits_per_byte": total.bits_per_byte}


class Preferences:
    """The loss of pairs of answers, a mean over all pairs.

    ``validation/preference_accuracy`` is the share of held-out pairs whose chosen answer gained
    more over the reference than the rejected one; ``validation/chosen_likelier_frac``, the share
    whose chosen answer is the likelier of the two, says something before the first step, too. There
    are no bits per byte: a pair's rejected text is nothing to be good at.

    Args:
        reference: what ``model`` was at its start.
        validation: held-out pairs.
    """

    KEYS: Final = (
        "validation/loss",
        "validation/preference_accuracy",
        "validation/preference_margin",
        "validation/chosen_likelier_frac",
    )

    def __init__(self, model: GPT, *, reference: GPT, beta: float, validation: ShardSet) -> None:
        self.row_loss: nn.Module = PreferenceLoss(model, reference, beta=beta)
        self.measures: tuple[str, ...] = PreferenceLoss.MEASURES
        self._model, self._reference, self._beta = model, reference, beta
        self._validation = validation

    def num_terms(self, *, num_targets: int, num_rows: int) -> int:  # noqa: ARG002
        """Return the number of pairs."""
        return num_rows // ROWS_PER_PAIR

    def evaluate(
        self, *, max_tokens: int, batch_rows: int, rank: int, world_size: int
    ) -> Float[Tensor, " S"]:
        """Return sums and number of this process's held-out pairs, always the first of the set."""
        num_rows = min(self._validation.num_rows, max_tokens // self._validation.context_tokens)
        pairs = np.arange(rank, max(1, num_rows // ROWS_PER_PAIR), world_size)
        sums = torch.zeros(len(self.KEYS) + 1, dtype=torch.float64)
        step = max(1, batch_rows // ROWS_PER_PAIR)
        with torch.inference_mode():
            for start in range(0, len(pairs), step):
                sums += self._evaluate_pairs(pairs[start : start + step])
        return sums

    def _evaluate_pairs(self, pairs: npt.NDArray[np.int64]) -> Float[Tensor, " S"]:
        rows = (pairs[:, None] * ROWS_PER_PAIR + np.arange(ROWS_PER_PAIR)).ravel()
        block = self._validation.rows(rows)
        device = self._model.head_weight.device
        ids = torch.from_numpy(block.ids.astype(np.int64)).to(device)
        mask = torch.from_numpy(block.mask).to(device)
        policy = answer_log_probs(self._model, ids, mask)
        reference = answer_log_probs(self._reference, ids, mask)
        margins = reward_margins(policy, reference, beta=self._beta)
        sums = (
            -torch.nn.functional.logsigmoid(margins).sum(),
            (margins > 0).sum(),
            margins.sum(),
            (policy[0::ROWS_PER_PAIR] > policy[1::ROWS_PER_PAIR]).sum(),
        )
        return torch.tensor([*(item.item() for item in sums), len(pairs)], dtype=torch.float64)

    def metrics(self, sums: Float[Tensor, " S"]) -> dict[str, float]:
        """Return the means over the pairs."""
        *totals, num_pairs = sums.tolist()
        return {key: total / num_pairs for key, total in zip(self.KEYS, totals, strict=True)}
