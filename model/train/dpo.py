"""Direct preference optimisation: the loss of pairs of answers to one prompt.

Rows come in pairs, the chosen conversation at 2i and the rejected one at 2i + 1; the loss mask
covers the answer alone. No sampling and no reward model: the trained model's own
log-likelihoods, against those of the model it started from, are the reward.
Source: Rafailov et al., arXiv 2305.18290, equation 7; without label smoothing.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.network.gpt import GPT
from model.network.losses import token_losses

ROWS_PER_PAIR: Final = 2


def answer_log_probs(
    model: GPT,
    ids: Int[Tensor, "B T1"],
    mask: Bool[Tensor, "B T1"],
    documents: Int[Tensor, "B T1"] | None = None,
) -> Float[Tensor, " B"]:
    """Return the log-likelihood of each row's unmasked targets together, in nats.

    What stands behind the last unmasked target of all rows changes nothing; an uncompiled CPU, to
    which every length costs the same, leaves it out.
    """
    if ids.device.type == "cpu" and model.model.training_block is None:
        end = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 2
        ids, mask = ids[:, :end], mask[:, :end]
        documents = None if documents is None else documents[:, :end]
    return -token_losses(model, ids, mask, documents).sum(1)


def reward_margins(
    policy: Float[Tensor, " B"], reference: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " P"]:
    """Return by how much each pair's chosen answer is rewarded above its rejected one.

    The reward of an answer is ``beta`` times what its log-likelihood gained over the reference's.

    Example:
        >>> reward_margins(torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -5.0]), beta=0.5)
        tensor([0.5000])
    """
    rewards = beta * (policy - reference)
    return rewards[0::ROWS_PER_PAIR] - rewards[1::ROWS_PER_PAIR]


class PreferenceLoss(nn.Module):
    """The loss of rows that are pairs, as one module.

    Args:
        model: takes the gradients.
        reference: what the model was at its start; stays as it is.
        beta: how much a reward weighs; the larger, the closer the model stays to the reference.
    """

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
        margins = self.margins(ids, mask, documents)
        known = margins.detach()
        return torch.stack((-F.logsigmoid(margins).sum(), (known > 0).sum(), known.sum()))

    def margins(
        self,
        ids: Int[Tensor, "B T1"],
        mask: Bool[Tensor, "B T1"],
        documents: Int[Tensor, "B T1"] | None,
    ) -> Float[Tensor, " P"]:
        """Return the reward margin of each pair."""
        with torch.no_grad():
            reference = answer_log_probs(self.reference, ids, mask, documents)
        policy = answer_log_probs(self.model, ids, mask, documents)
        return reward_margins(policy, reference, beta=self.beta)
