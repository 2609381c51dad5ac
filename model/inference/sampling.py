"""Choosing the next token: temperature, the limits of what may be drawn, and the seed.

Each row of a batch has settings and a random generator of its own, so what a row draws does not
depend on its neighbours. The order is transformers': repetition penalty, temperature, top-k, top-p,
min-p; then one draw.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from model.config.export import SamplingConfig

MAX_TEMPERATURE = 2  # that a user may ask for; OpenAI's limit
MAX_REPETITION_PENALTY = 10
MAX_SEED = 2**63 - 1
FIRST_CANDIDATES = 256  # top-p and min-p look at this many likeliest tokens, and more if need be


class Sampling(SamplingConfig):
    """How one text's tokens are drawn."""

    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="the same seed draws the same; unset = any"
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


Find = Callable[[Tensor, Sequence[Sampling]], Candidates]


def pick_tokens(logits: Float[Tensor, "B V"], samplers: Sequence[Sampler]) -> list[int]:
    """Return one token for each row, and note it in the row's sampler."""
    logits = penalised(logits, samplers)
    picked = logits.argmax(dim=-1).tolist()
    for row, token in _all_drawn(logits, samplers):
        picked[row] = token
    for sampler, token in zip(samplers, picked, strict=True):
        sampler.seen[token] = None
    return picked


def _all_drawn(logits: Tensor, samplers: Sequence[Sampler]) -> Iterator[tuple[int, int]]:
    """Yield row and token of each row that draws, those of one kind together."""
    kinds: dict[Find, list[int]] = {}
    for row, sampler in enumerate(samplers):
        if sampler.sampling.temperature > 0:
            kinds.setdefault(_find(sampler.sampling), []).append(row)
    for find, rows in kinds.items():
        found = find(logits[rows], [samplers[row].sampling for row in rows])
        tokens = _drawn(found, [samplers[row] for row in rows])
        yield from zip(rows, tokens, strict=True)


def _find(sampling: Sampling) -> Find:
    if sampling.top_k:
        return within_top_k
    return within_limits if sampling.top_p < 1 or sampling.min_p > 0 else unlimited


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


def within_top_k(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return what rows with a top-k may draw, from the likeliest down."""
    width = min(max(item.top_k for item in settings), logits.shape[1])
    values, ids = (logits / _column([item.temperature for item in settings], logits)).topk(width)
    shares = (values - values[:, :1]).exp()
    ranks = torch.arange(width, device=shares.device)
    shares = shares * (ranks < _column([item.top_k for item in settings], shares))
    return _chosen(ids, shares, _allowed(shares / shares.sum(-1, keepdim=True), settings))


def within_limits(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return what rows with a top-p or min-p and no top-k may draw, by id.

    Sorting a vocabulary for every token would cost more than a small model's step, so rows whose
    limits lie among the likeliest tokens are told by those; only the others are sorted.
    """
    shares = (logits / _column([item.temperature for item in settings], logits)).softmax(dim=-1)
    likeliest = shares.topk(min(FIRST_CANDIDATES, shares.shape[1])).values
    least = _least_allowed(likeliest, settings)
    beyond = (least == likeliest[:, -1]).tolist()
    wide = [row for row, is_wide in enumerate(beyond) if is_wide]
    if wide:
        ordered = shares[wide].cpu().numpy()
        ordered = torch.from_numpy(-np.sort(-ordered, axis=-1)).to(
            shares.device
        )  # torch's is slower
        least[wide] = _least_allowed(ordered, [settings[row] for row in wide])
    ids = torch.arange(shares.shape[1], device=shares.device).expand_as(shares)
    return _chosen(ids, shares, shares >= least[:, None])


def _least_allowed(
    ordered: Float[Tensor, "B K"], settings: Sequence[Sampling]
) -> Float[Tensor, " B"]:
    """Return the smallest probability a row may draw, of probabilities from the largest down."""
    last = _allowed(ordered, settings).sum(dim=-1, keepdim=True) - 1
    return ordered.gather(1, last).squeeze(1)


def _allowed(ordered: Float[Tensor, "B K"], settings: Sequence[Sampling]) -> Bool[Tensor, "B K"]:
    """Say which of some probabilities top-p and min-p allow, the largest of which come first."""
    before = ordered.cumsum(dim=-1) - ordered
    top_p = _column([math.inf if item.top_p == 1 else item.top_p for item in settings], ordered)
    min_p = _column([item.min_p for item in settings], ordered)
    return (before < top_p) & (ordered >= min_p * ordered[:, :1])


def _chosen(ids: Tensor, shares: Tensor, allowed: Tensor) -> Candidates:
    kept = shares * allowed
    return Candidates(ids, kept / kept.sum(dim=-1, keepdim=True))


def _drawn(choice: Candidates, samplers: Sequence[Sampler]) -> list[int]:
    sums = choice.probabilities.double().cumsum(dim=-1)
    targets = _column([sampler.draw() for sampler in samplers], sums) * sums[:, -1:]
    ranks = (sums <= targets).sum(dim=-1, keepdim=True).clamp_(max=sums.shape[1] - 1)
    return choice.ids.gather(1, ranks).squeeze(1).tolist()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
