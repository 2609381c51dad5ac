"""The loss of each token by itself, without the logits of all tokens at once.

``model.network.gpt.chunked_cross_entropy`` knows while it makes a chunk's logits what weight each
token has in the loss, and takes the gradient there and then. Where the weights follow from the
losses, as those of a pair of answers do, the gradient has to wait: here the backward pass makes the
logits of each chunk once more. ``model.train.dpo`` is the caller.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.network.gpt import GPT, ScoreChunk, logit_chunks, logits_dtype


def token_losses(
    model: GPT,
    ids: Int[Tensor, "B T1"],
    mask: Bool[Tensor, "B T1"],
    documents: Int[Tensor, "B T1"] | None = None,
) -> Float[Tensor, "B T"]:
    """Return the negative log-likelihood of each unmasked target, else zero.

    Args and sums are those of ``model.network.gpt.next_token_loss``.

    Returns:
        Units: nats, fp32.
    """
    hidden = model.hidden(ids[:, :-1], None if documents is None else documents[:, :-1])
    losses = chunked_token_losses(
        hidden.flatten(0, 1),
        model.head_weight,
        ids[:, 1:].flatten(),
        mask[:, 1:].flatten(),
        score_chunk=model.score_chunk,
    )
    return losses.unflatten(0, hidden.shape[:2])


def chunked_token_losses(
    hidden: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    targets: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"],
    *,
    score_chunk: ScoreChunk,
) -> Float[Tensor, " N"]:
    """Return the fp32 cross-entropy of ``hidden @ weight.T`` at each unmasked target, else zero.

    Logits stand for one chunk of tokens at a time, forward and backward; under autocast they are
    made in its type.
    """
    losses: Tensor = _ChunkedTokenLosses.apply(  # pyright: ignore[reportAssignmentType]
        hidden, weight, targets.long(), mask, logits_dtype(hidden), score_chunk
    )
    return losses


class _ChunkedTokenLosses(torch.autograd.Function):
    """Losses chunk by chunk; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        compute_dtype: torch.dtype,
        score_chunk: ScoreChunk,
    ) -> Tensor:
        matrix = weight.to(compute_dtype)
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for chunk in logit_chunks(hidden, weight):
            logits = (hidden[chunk].to(compute_dtype) @ matrix.T).float()
            picked = logits.gather(1, targets[chunk, None]).squeeze(1)
            losses[chunk] = logits.logsumexp(dim=-1) - picked
        ctx.save_for_backward(hidden, weight, targets, mask)
        ctx.compute_dtype, ctx.score_chunk = compute_dtype, score_chunk
        return losses.where(mask, 0.0)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (scales,) = grad_outputs
        hidden, weight, targets, mask = ctx.saved_tensors
        counts = scales * mask
        matrix = weight.to(ctx.compute_dtype)
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        for chunk in logit_chunks(hidden, weight):
            inputs = hidden[chunk].to(ctx.compute_dtype)
            _, gradient = ctx.score_chunk(inputs @ matrix.T, targets[chunk], counts[chunk])
            hidden_gradient[chunk] = gradient @ matrix
            weight_gradient += gradient.T @ inputs
        return hidden_gradient, weight_gradient, *(None,) * 4
