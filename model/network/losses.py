"""Losses of next-token prediction, computed without holding the logits of all tokens at once.

    next_token_loss   the sum over all targets: pretraining and fine-tuning
    token_losses      one loss per target: preference optimisation weighs them afterwards

The sum knows each token's weight while a chunk's logits are there, so it takes their gradient in
the forward pass and computes nothing twice. Where weights depend on the losses, the backward pass
computes each chunk's logits again (activation checkpointing).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from model.network.gpt import GPT, ScoreChunk

CHUNK_LOGITS = {"cpu": 2**23, "cuda": 2**28}  # logits held at once


def next_token_loss(
    model: GPT,
    ids: Int[Tensor, "B T1"],
    mask: Bool[Tensor, "B T1"],
    documents: Int[Tensor, "B T1"] | None = None,
) -> Float[Tensor, ""]:
    """Return the summed negative log-likelihood of the unmasked targets, in nats, fp32.

    Args:
        ids: rows of context + 1 tokens; inputs are all but the last, targets all but the first.
        mask: loss mask, true for targets; its first column is not used.
        documents: as for ``GPT.hidden``; its last column is not used.
    """
    hidden = model.hidden(ids[:, :-1], None if documents is None else documents[:, :-1])
    return chunked_cross_entropy(
        hidden.flatten(0, 1),
        model.head_weight,
        ids[:, 1:].flatten(),
        mask[:, 1:].flatten(),
        model.score_chunk,
    )


def token_losses(
    model: GPT,
    ids: Int[Tensor, "B T1"],
    mask: Bool[Tensor, "B T1"],
    documents: Int[Tensor, "B T1"] | None = None,
) -> Float[Tensor, "B T"]:
    """Return the negative log-likelihood of each unmasked target, else zero, in nats, fp32.

    Args are those of ``next_token_loss``.
    """
    hidden = model.hidden(ids[:, :-1], None if documents is None else documents[:, :-1])
    losses = chunked_token_losses(
        hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten(), mask[:, 1:].flatten()
    )
    return losses.unflatten(0, hidden.shape[:2])


def chunked_token_losses(
    hidden: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    targets: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return the fp32 cross-entropy of ``hidden @ weight.T`` at each unmasked target, else zero."""

    def losses_of(inputs: Tensor, matrix: Tensor, expected: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(inputs, matrix).float(), expected, reduction="none")

    size = logit_chunk_tokens(weight)
    losses: list[Tensor] = [
        checkpoint(
            losses_of, inputs, weight, expected, use_reentrant=False, preserve_rng_state=False
        )
        for inputs, expected in zip(hidden.split(size), targets.long().split(size), strict=True)
    ]
    return torch.cat(losses).where(mask, 0.0)


def chunked_cross_entropy(
    hidden: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    targets: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"],
    score_chunk: ScoreChunk | None = None,
) -> Float[Tensor, ""]:
    """Return the summed cross-entropy of ``hidden @ weight.T`` over unmasked targets, in fp32.

    Under autocast, logits have its type.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # pyright: ignore[reportAssignmentType]
        hidden, weight, targets, mask, dtype, needs_gradient, score_chunk
    )
    return loss


def logit_chunk_tokens(weight: Float[Tensor, "V C"]) -> int:
    """Return the number of tokens whose logits are held at once."""
    return max(1, CHUNK_LOGITS[weight.device.type] // weight.shape[0])


def score_logits(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], counts: Float[Tensor, " N"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "N V"]]:
    """Return the weighted, summed cross-entropy in fp32, and its gradient in the logits' type.

    Works in place, so not under autograd.
    """
    log_probs = logits.float().log_softmax(dim=-1)
    picked = log_probs.gather(1, targets[:, None])
    of_picked = picked.expm1() * counts[:, None]
    gradient = log_probs.exp_().mul_(counts[:, None]).scatter_(1, targets[:, None], of_picked)
    return -(picked.squeeze(1) * counts).sum(), gradient.to(logits.dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and its gradients chunk by chunk; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        compute_dtype: torch.dtype,
        needs_gradient: bool,
        score_chunk: ScoreChunk | None,
    ) -> Tensor:
        score = score_chunk if score_chunk and needs_gradient else score_logits
        matrix = weight.to(compute_dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight) if needs_gradient else None
        size = logit_chunk_tokens(weight)
        for chunk in (slice(start, start + size) for start in range(0, len(hidden), size)):
            inputs = hidden[chunk].to(compute_dtype)
            nll, gradient = score(inputs @ matrix.T, targets[chunk].long(), mask[chunk].float())
            loss += nll
            if hidden_gradient is not None and weight_gradient is not None:
                hidden_gradient[chunk] = gradient @ matrix
                weight_gradient += gradient.T @ inputs
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * scale, weight_gradient * scale, *(None,) * 5
