"""Choosing the next token: temperature, the limits of what may be drawn, and the seed.

Each row of a batch has settings and a random generator of its own, so what a row draws does not
depend on its neighbours. The order is transformers': repetition penalty, temperature, top-k, top-p,
min-p; then one draw.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from model.config import SamplingConfig

FIRST_CANDIDATES = 256  # top-p and min-p look at this many likeliest tokens, and more if need be


class Sampling(SamplingConfig):
    """How one text's tokens are drawn."""

    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="the same seed draws the same; unset = any"
    )


GREEDY = Sampling(temperature=0, top_p=1, repetition_penalty=1)


class Sampler:
    """The settings of one row, its random numbers, and the tokens its text holds.

    Args:
        ids: the prompt.
    """

    def __init__(self, sampling: Sampling, ids: Sequence[int]) -> None:
        self.sampling = sampling
        self.seen = dict.fromkeys(ids)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> float:
        """Return a number from [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


@dataclass(frozen=True)
class Candidates:
    """What each row may draw, and how likely: the probabilities of a row sum to 1."""

    ids: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]


def pick_tokens(logits: Float[Tensor, "B V"], samplers: Sequence[Sampler]) -> list[int]:
    """Return one token for each row, and note it in the row's sampler."""
    logits = penalised(logits, samplers)
    picked = logits.argmax(dim=-1).tolist()
    for find in (unlimited, limited):  # rows at temperature 0 stay as they are
        chosen = [row for row, item in enumerate(samplers) if _way(item.sampling) is find]
        if chosen:
            drawing = [samplers[row] for row in chosen]
            found = find(logits[chosen], [sampler.sampling for sampler in drawing])
            for row, token in zip(chosen, _drawn(found, drawing), strict=True):
                picked[row] = token
    for sampler, token in zip(samplers, picked, strict=True):
        sampler.seen[token] = None
    return picked


def _way(sampling: Sampling) -> Callable[..., Candidates] | None:
    if sampling.temperature == 0:
        return None
    has_limit = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
    return limited if has_limit else unlimited


def penalised(logits: Float[Tensor, "B V"], samplers: Sequence[Sampler]) -> Float[Tensor, "B V"]:
    """Return logits in which tokens that a text holds are less likely.

    Source: CTRL, arXiv 1909.05858, section 4.1; negative logits are multiplied, as transformers
    does, since dividing them would make their tokens likelier.
    """
    rows = [
        (row, sampler)
        for row, sampler in enumerate(samplers)
        if sampler.sampling.repetition_penalty != 1 and sampler.seen
    ]
    if not rows:
        return logits
    logits = logits.clone()
    for row, sampler in rows:
        seen = torch.tensor(list(sampler.seen), device=logits.device)
        penalty, values = sampler.sampling.repetition_penalty, logits[row, seen]
        logits[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits


def unlimited(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return the whole vocabulary, by id: nothing needs sorting."""
    warmth = _column([item.temperature for item in settings], logits)
    ids = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    return Candidates(ids, (logits / warmth).softmax(dim=-1))


def limited(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return what rows with a top-k, top-p or min-p may draw, from the likeliest down.

    Sorting a whole vocabulary for every token would cost more than a small model's step, so the
    likeliest tokens are looked at first, and more only if a row's limits reach beyond them.
    """
    vocab_size = logits.shape[1]
    logits = logits / _column([item.temperature for item in settings], logits)
    total = logits.logsumexp(dim=-1, keepdim=True)
    width = max(item.top_k or FIRST_CANDIDATES for item in settings)
    while True:
        width = min(width, vocab_size)
        values, ids = logits.topk(width)
        shares = (values - total).exp()  # of the whole vocabulary's probability
        allowed = _allowed(shares, settings)
        open_ended = torch.tensor([item.top_k == 0 for item in settings], device=logits.device)
        if width == vocab_size or not (allowed[:, -1] & open_ended).any():
            kept = shares * allowed
            return Candidates(ids, kept / kept.sum(dim=-1, keepdim=True))
        width *= 8


def _allowed(shares: Float[Tensor, "B K"], settings: Sequence[Sampling]) -> Bool[Tensor, "B K"]:
    """Say which of the likeliest tokens each row may draw; top-p measures what top-k left."""
    ranks = torch.arange(shares.shape[1], device=shares.device)
    top_k = _column([item.top_k or math.inf for item in settings], shares)
    within = shares * (ranks < top_k)
    whole = torch.where(top_k == math.inf, torch.ones_like(top_k), within.sum(-1, keepdim=True))
    before = within.cumsum(dim=-1) - within
    top_p = _column([math.inf if item.top_p == 1 else item.top_p for item in settings], shares)
    min_p = _column([item.min_p for item in settings], shares)
    return (ranks < top_k) & (before < top_p * whole) & (shares >= min_p * shares[:, :1])


def _drawn(choice: Candidates, samplers: Sequence[Sampler]) -> list[int]:
    sums = choice.probabilities.double().cumsum(dim=-1)
    targets = _column([sampler.draw() for sampler in samplers], sums) * sums[:, -1:]
    ranks = (sums <= targets).sum(dim=-1, keepdim=True).clamp_(max=sums.shape[1] - 1)
    return choice.ids.gather(1, ranks).squeeze(1).tolist()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
