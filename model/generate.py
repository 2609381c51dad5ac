"""Writing text with a model, one token at a time.

Plain sampling that runs the whole window again for every token: right for samples and tests. A
sequence longer than the context is continued from its last ``context_tokens`` tokens alone, which
then take the positions from zero on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.errors import TokenizerError
from model.gpt import GPT


@torch.inference_mode()
def generate(
    model: GPT,
    ids: Sequence[int],
    *,
    num_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """Return the ids a model writes after a prompt, without the prompt.

    Args:
        num_tokens: at most this many are written.
        temperature: 0 takes the likeliest token each time.
        top_k: sample among this many likeliest tokens; 0 = all.
        seed: the same prompt, settings and machine give the same ids.
        stop_ids: writing ends before any of these, so the result may be shorter.

    Raises:
        TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
    """
    _require_prompt(ids, vocab_size=model.architecture.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    device = model.head_weight.device
    written: list[int] = []
    while len(written) < num_tokens:
        window = [*ids, *written][-model.architecture.context_tokens :]
        hidden = model.hidden(torch.tensor([window], device=device))[0, -1]
        logits = F.linear(hidden, model.head_weight).float().cpu()
        token = pick_token(logits, temperature=temperature, top_k=top_k, generator=generator)
        if token in stop_ids:
            break
        written.append(token)
    return written


def pick_token(
    logits: Float[Tensor, " V"], *, temperature: float, top_k: int, generator: torch.Generator
) -> int:
    """Return one token drawn from the ``top_k`` likeliest; the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    num_candidates = min(top_k or len(logits), len(logits))
    values, candidates = logits.topk(num_candidates)
    probabilities = (values / temperature).softmax(dim=-1)
    return int(candidates[torch.multinomial(probabilities, 1, generator=generator)])


def _require_prompt(ids: Sequence[int], *, vocab_size: int) -> None:
    outside = [index for index in ids if not 0 <= index < vocab_size]
    if not ids or outside:
        raise TokenizerError(
            "a model cannot go on from this prompt",
            expected=f"at least one id, each from 0 to {vocab_size - 1}",
            found=f"id {outside[0]}" if outside else "no ids",
            fix="start with <|endoftext|>, and use the tokenizer the model was trained with",
        )
