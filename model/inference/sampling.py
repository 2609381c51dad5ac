"""Sampling of the next token: repetition penalty, temperature, top-k, top-p, min-p, seed.

Each row of a batch has its own settings and random generator, so its samples do not depend on the
other rows. The order of the steps is that of transformers.
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

from model.config.trained_model import SamplingConfig

MAX_TEMPERATURE = 2  # OpenAI's limit
MAX_REPETITION_PENALTY = 10
MAX_SEED = 2**63 - 1
FIRST_CANDIDATES = 256  # top tokens sorted for top-p and min-p; all where a limit is beyond


class Sampling(SamplingConfig):
    """Sampling settings of one sequence."""

    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="seed of the random generator; unset = random"
    )


GREEDY = Sampling(temperature=0, top_p=1, repetition_penalty=1)


class Sampler:
    """Sampling state of one row: settings, random generator, and the tokens seen so far."""

    def __init__(self, sampling: Sampling, ids: Sequence[int]) -> None:
        self.sampling = sampling
        self.seen = dict.fromkeys(ids)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> float:
        """Return a random number from [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


@dataclass(frozen=True)
class Candidates:
    """Candidate tokens of each row with their probabilities, which sum to 1 per row."""

    ids: Int[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]


FindCandidates = Callable[[Tensor, Sequence[Sampling]], Candidates]


def pick_tokens(logits: Float[Tensor, "B V"], samplers: Sequence[Sampler]) -> list[int]:
    """Return one token for each row, and add it to the sampler's seen ones."""
    logits = penalised(logits, samplers)
    picked = logits.argmax(dim=-1).tolist()
    for row, token in _sampled_rows(logits, samplers):
        picked[row] = token
    for sampler, token in zip(samplers, picked, strict=True):
        sampler.seen[token] = None
    return picked


def _sampled_rows(logits: Tensor, samplers: Sequence[Sampler]) -> Iterator[tuple[int, int]]:
    """Yield (row, token) of the rows that sample, grouped by their kind of limits."""
    groups: dict[FindCandidates, list[int]] = {}
    for row, sampler in enumerate(samplers):
        if sampler.sampling.temperature > 0:
            groups.setdefault(_candidate_finder(sampler.sampling), []).append(row)
    for find, rows in groups.items():
        found = find(logits[rows], [samplers[row].sampling for row in rows])
        tokens = _draw(found, [samplers[row] for row in rows])
        yield from zip(rows, tokens, strict=True)


def _candidate_finder(sampling: Sampling) -> FindCandidates:
    if sampling.top_k:
        return within_top_k
    return within_limits if sampling.top_p < 1 or sampling.min_p > 0 else unlimited


def penalised(logits: Float[Tensor, "B V"], samplers: Sequence[Sampler]) -> Float[Tensor, "B V"]:
    """Apply the repetition penalty to tokens seen before.

    Source: CTRL, arXiv 1909.05858, section 4.1; negative logits are multiplied, as in
    transformers, since dividing would raise their probability.
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
    """Return the whole vocabulary as candidates, in the order of ids."""
    temperatures = _column([item.temperature for item in settings], logits)
    ids = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    return Candidates(ids, (logits / temperatures).softmax(dim=-1))


def within_top_k(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return the candidates of rows with top-k, most likely first."""
    width = min(max(item.top_k for item in settings), logits.shape[1])
    values, ids = (logits / _column([item.temperature for item in settings], logits)).topk(width)
    probs = (values - values[:, :1]).exp()
    ranks = torch.arange(width, device=probs.device)
    probs = probs * (ranks < _column([item.top_k for item in settings], probs))
    return _renormalised(ids, probs, _allowed(probs / probs.sum(-1, keepdim=True), settings))


def within_limits(logits: Float[Tensor, "B V"], settings: Sequence[Sampling]) -> Candidates:
    """Return the candidates of rows with top-p or min-p and no top-k, in the order of ids.

    Sorting the vocabulary for every token would cost more than a small model's step, so only the
    top tokens are sorted first, and the whole vocabulary only for rows whose limit is beyond them.
    """
    probs = (logits / _column([item.temperature for item in settings], logits)).softmax(dim=-1)
    top = probs.topk(min(FIRST_CANDIDATES, probs.shape[1])).values
    least = _least_allowed(top, settings)
    if wide := (least == top[:, -1]).nonzero().flatten().tolist():
        ordered = -np.sort(-probs[wide].cpu().numpy(), axis=-1)  # torch's sort is slower
        ordered = torch.from_numpy(ordered).to(probs.device)
        least[wide] = _least_allowed(ordered, [settings[row] for row in wide])
    ids = torch.arange(probs.shape[1], device=probs.device).expand_as(probs)
    return _renormalised(ids, probs, probs >= least[:, None])


def _least_allowed(
    ordered: Float[Tensor, "B K"], settings: Sequence[Sampling]
) -> Float[Tensor, " B"]:
    """Return the smallest allowed probability of each row, given descending probabilities."""
    last = _allowed(ordered, settings).sum(dim=-1, keepdim=True) - 1
    return ordered.gather(1, last).squeeze(1)


def _allowed(ordered: Float[Tensor, "B K"], settings: Sequence[Sampling]) -> Bool[Tensor, "B K"]:
    """Return the mask that top-p and min-p allow of descending probabilities."""
    before = ordered.cumsum(dim=-1) - ordered
    top_p = _column([math.inf if item.top_p == 1 else item.top_p for item in settings], ordered)
    min_p = _column([item.min_p for item in settings], ordered)
    return (before < top_p) & (ordered >= min_p * ordered[:, :1])


def _renormalised(ids: Tensor, probs: Tensor, allowed: Tensor) -> Candidates:
    kept = probs * allowed
    return Candidates(ids, kept / kept.sum(dim=-1, keepdim=True))


def _draw(candidates: Candidates, samplers: Sequence[Sampler]) -> list[int]:
    sums = candidates.probabilities.double().cumsum(dim=-1)
    targets = _column([sampler.draw() for sampler in samplers], sums) * sums[:, -1:]
    ranks = (sums <= targets).sum(dim=-1, keepdim=True).clamp_(max=sums.shape[1] - 1)
    return candidates.ids.gather(1, ranks).squeeze(1).tolist()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
