"""Log-likelihoods of continuations, in batches.

Requests are sorted by length and padded at their ends, where causal attention masks the padding.
The head sees only the positions that predict a continuation. fp32 throughout.

Source: EleutherAI lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` and ``loglikelihood``,
``HFLM._loglikelihood_tokens``: the continuation's ids are those of the whole text beyond the
length of the encoded context; white space at the context's end belongs to the continuation; an
empty context is the end-of-text token, and no other gets one; a text longer than the context of the
model is truncated from the left. One deviation: where the continuation alone is too long, the
harness fails, and here its last tokens are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.core.errors import TokenizerError
from model.network.gpt import GPT
from model.network.losses import CHUNK_LOGITS
from model.text.tokenizer import Tokenizer

BATCH_TOKENS = {"cpu": 4_096, "cuda": 131_072}  # per batch; on CPUs more leave the caches


@dataclass(frozen=True)
class Loglikelihood:
    """Score of a continuation."""

    nats: float  # summed over its tokens
    is_greedy: bool  # each of its tokens is the most likely one


@dataclass(frozen=True)
class LoglikelihoodRequest:
    """A text as ids, the last ``num_targets`` of which are the continuation."""

    ids: list[int]
    num_targets: int


def encode_requests(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[LoglikelihoodRequest]:
    """Return pairs of context and continuation as ids."""
    contexts = [context.rstrip() for context, _ in pairs]
    unique = list(dict.fromkeys(contexts))
    lengths = dict(zip(unique, map(len, tokenizer.encode_batch(unique)), strict=True))
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in pairs])
    requests = []
    for context, whole, pair in zip(contexts, wholes, pairs, strict=True):
        num_targets = len(whole) - lengths[context]
        if num_targets < 1:
            raise TokenizerError(
                "a continuation has no token of its own",
                expected="a continuation that begins with a space or a new word",
                found=f"{pair[1]!r} after {context[-40:]!r}",
                fix="correct the item of the evaluation set",
            )
        ids = whole if lengths[context] else [tokenizer.end_of_text_id, *whole]
        requests.append(LoglikelihoodRequest(ids, num_targets))
    return requests


@torch.inference_mode()
def loglikelihoods(model: GPT, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
    """Return the log-likelihood of each request's continuation, in their order."""
    limit = model.architecture.context_tokens + 1
    windows = [_window(request, limit=limit) for request in requests]
    found: list[Loglikelihood | None] = [None] * len(windows)
    for batch in _batches(windows, max_tokens=BATCH_TOKENS[model.head_weight.device.type]):
        scored = _score(model, [windows[index] for index in batch])
        for index, likelihood in zip(batch, scored, strict=True):
            found[index] = likelihood
    return [likelihood for likelihood in found if likelihood is not None]


def _window(request: LoglikelihoodRequest, *, limit: int) -> LoglikelihoodRequest:
    ids = request.ids[-limit:]
    return LoglikelihoodRequest(ids, min(request.num_targets, len(ids) - 1))


def _batches(windows: Sequence[LoglikelihoodRequest], *, max_tokens: int) -> Iterator[list[int]]:
    """Yield batches of indices, the longest requests first."""
    order = sorted(range(len(windows)), key=lambda index: -len(windows[index].ids))
    start = 0
    while start < len(order):
        num_rows = max(1, max_tokens // len(windows[order[start]].ids))
        yield order[start : start + num_rows]
        start += num_rows


def _score(model: GPT, batch: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
    device = model.head_weight.device
    num_positions = len(batch[0].ids) - 1
    padded = [
        [*request.ids[:-1], *[0] * (num_positions + 1 - len(request.ids))] for request in batch
    ]
    hidden = model.hidden(torch.tensor(padded, device=device)).flatten(0, 1)
    rows, positions, targets = [], [], []
    for row, request in enumerate(batch):
        last, num = len(request.ids) - 1, request.num_targets
        rows += [row] * num
        positions += range(row * num_positions + last - num, row * num_positions + last)
        targets += request.ids[-num:]
    picked = hidden[torch.tensor(positions, device=device)]
    log_probs, is_top = _target_log_probs(model, picked, torch.tensor(targets, device=device))
    index = torch.tensor(rows, device=device)
    sums = torch.zeros(len(batch), dtype=torch.float64, device=device)
    sums.index_add_(0, index, log_probs.double())
    misses = torch.zeros(len(batch), dtype=torch.int64, device=device)
    misses.index_add_(0, index, (~is_top).long())
    return [
        Loglikelihood(nats, num_misses == 0)
        for nats, num_misses in zip(sums.tolist(), misses.tolist(), strict=True)
    ]


def _target_log_probs(
    model: GPT, hidden: Float[Tensor, "N C"], targets: Int[Tensor, " N"]
) -> tuple[Tensor, Tensor]:
    """Return each target's log-probability, and whether it is the most likely token."""
    weight = model.head_weight
    num_rows = max(1, CHUNK_LOGITS[weight.device.type] // weight.shape[0])
    log_probs, is_top = [], []
    for part, ids in zip(hidden.split(num_rows), targets.split(num_rows), strict=True):
        logits = torch.nn.functional.linear(part, weight).float()
        of_targets = logits.gather(1, ids[:, None]).squeeze(1)
        log_probs.append(of_targets - logits.logsumexp(dim=-1))
        is_top.append(logits.argmax(dim=-1) == ids)
    return torch.cat(log_probs), torch.cat(is_top)
