"""Training objectives, and their metrics on held-out rows.

    NextToken     cross-entropy of each target; validation in nats per token and bits per byte
    Preferences   direct preference optimisation (DPO) of pairs of answers; validation by pairs

The loop only knows ``Objective``; ``model.train.setup`` builds the one that a run asks for. All
sums are over rows first, so that micro-batches and processes add up before anything is divided.

In preference training, rows 2i and 2i + 1 are the chosen and the rejected conversation of a pair,
and the loss mask covers the answer alone. There is no sampling and no reward model: the reward is
the log-likelihood of the trained model against that of the model it started from.
Source: Rafailov et al., arXiv 2305.18290, equation 7; without label smoothing.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.config.network import AttentionScope
from model.data.shards import ShardSet
from model.eval.validation import Evaluation, evaluate
from model.network.gpt import GPT
from model.network.losses import next_token_loss, token_losses

ROWS_PER_PAIR: Final = 2


class Objective(Protocol):
    """Interface between the training loop and an objective.

    Attributes:
        row_loss: takes rows as ``ids, mask, documents`` and returns the sums of ``measures``.
        measures: names of these sums; the first is the loss and has a gradient.
    """

    row_loss: nn.Module
    measures: tuple[str, ...]

    def num_terms(self, *, num_targets: int, num_rows: int) -> int:
        """Return the number of terms in the mean loss of a global batch."""
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
    """The loss as one module, so that DDP synchronises every parameter it uses."""

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
    """Next-token cross-entropy, a mean over all targets."""

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


def answer_log_probs(
    model: GPT,
    ids: Int[Tensor, "B T1"],
    mask: Bool[Tensor, "B T1"],
    documents: Int[Tensor, "B T1"] | None = None,
) -> Float[Tensor, " B"]:
    """Return the log-likelihood of each row's unmasked targets together, in nats.

    Tokens after the last unmasked target of all rows change nothing; an uncompiled CPU, which has
    no cost per new length, leaves them out.
    """
    if ids.device.type == "cpu" and model.model.training_block is None:
        end = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 2
        ids, mask = ids[:, :end], mask[:, :end]
        documents = None if documents is None else documents[:, :end]
    return -token_losses(model, ids, mask, documents).sum(1)


def reward_margins(
    policy: Float[Tensor, " B"], reference: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " P"]:
    """Return the reward of each pair's chosen answer minus that of its rejected one.

    The reward of an answer is ``beta`` times its log-likelihood over that of the reference.

    Example:
        >>> reward_margins(torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -5.0]), beta=0.5)
        tensor([0.5000])
    """
    rewards = beta * (policy - reference)
    return rewards[0::ROWS_PER_PAIR] - rewards[1::ROWS_PER_PAIR]


class PreferenceLoss(nn.Module):
    """The DPO loss of rows that are pairs, as one module; ``reference`` is the initial model."""

    MEASURES: Final = ("loss", "preference_accuracy", "preference_margin")

    def __init__(self, model: GPT, reference: GPT, *, beta: float) -> None:
        super().__init__()
        self.model = model
        self.reference = reference.requires_grad_(False).eval()
        self.beta = beta

    def forward(
        self,
        ids: Int[Tensor, "B T1"],
        mask: Bool[Tensor, "B T1"],
        documents: Int[Tensor, "B T1"] | None,
    ) -> Float[Tensor, " M"]:
        """Return the sums of ``MEASURES`` over the pairs; the first one has a gradient."""
        _, margins = self.rewards(ids, mask, documents)
        known = margins.detach()
        return torch.stack((-F.logsigmoid(margins).sum(), (known > 0).sum(), known.sum()))

    def rewards(
        self,
        ids: Int[Tensor, "B T1"],
        mask: Bool[Tensor, "B T1"],
        documents: Int[Tensor, "B T1"] | None = None,
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " P"]]:
        """Return the log-likelihood of each answer, and the reward margin of each pair."""
        with torch.no_grad():
            reference = answer_log_probs(self.reference, ids, mask, documents)
        policy = answer_log_probs(self.model, ids, mask, documents)
        return policy, reward_margins(policy, reference, beta=self.beta)


class Preferences:
    """Direct preference optimisation, a mean over all pairs.

    ``validation/preference_accuracy`` is the share of held-out pairs whose chosen answer has the
    higher reward; ``validation/chosen_likelier_frac``, the share whose chosen answer is the
    likelier one, is informative before the first step, too. There are no bits per byte: rejected
    text is not a target.
    """

    KEYS: Final = (
        "validation/loss",
        "validation/preference_accuracy",
        "validation/preference_margin",
        "validation/chosen_likelier_frac",
    )

    def __init__(self, model: GPT, *, reference: GPT, beta: float, validation: ShardSet) -> None:
        self._loss = PreferenceLoss(model, reference, beta=beta)
        self.row_loss: nn.Module = self._loss
        self.measures: tuple[str, ...] = PreferenceLoss.MEASURES
        self._validation = validation

    def num_terms(self, *, num_targets: int, num_rows: int) -> int:  # noqa: ARG002
        """Return the number of pairs."""
        return num_rows // ROWS_PER_PAIR

    def evaluate(
        self, *, max_tokens: int, batch_rows: int, rank: int, world_size: int
    ) -> Float[Tensor, " S"]:
        """Return sums and number of this process's share of the first held-out pairs."""
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
        device = self._loss.model.head_weight.device
        ids = torch.from_numpy(block.ids.astype(np.int64)).to(device)
        mask = torch.from_numpy(block.mask).to(device)
        policy, margins = self._loss.rewards(ids, mask)
        sums = (
            -F.logsigmoid(margins).sum(),
            (margins > 0).sum(),
            margins.sum(),
            (policy[0::ROWS_PER_PAIR] > policy[1::ROWS_PER_PAIR]).sum(),
        )
        return torch.tensor([*(item.item() for item in sums), len(pairs)], dtype=torch.float64)

    def metrics(self, sums: Float[Tensor, " S"]) -> dict[str, float]:
        """Return the means over the pairs."""
        *totals, num_pairs = sums.tolist()
        return {key: total / num_pairs for key, total in zip(self.KEYS, totals, strict=True)}
