"""Texts a model writes after prompts, for others to judge: openings at will, questions greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from model.config import ScoreConfig
from model.conversation import Prompt as PromptIds
from model.conversation import fit_conversation, fit_text
from model.decoder import Decoder
from model.generate import generate_batch
from model.gpt import GPT
from model.prompts import Generation, Kind, Prompt
from model.sampling import GREEDY, Sampling
from model.tokenizer import IM_END, Tokenizer

ROWS = 64  # texts side by side


def answer_prompts(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, config: ScoreConfig
) -> list[Generation]:
    """Return what a model writes after each prompt, in their order.

    Raises:
        ConfigError: a conversation is longer than the model can read.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=1,
        repetition_penalty=1,
        seed=config.seed,
    )
    decoder = Decoder(model)
    openings = _write(decoder, tokenizer, prompts, "opening", sampling, config.generation_tokens)
    questions = _write(decoder, tokenizer, prompts, "question", GREEDY, config.answer_tokens)
    made = {"opening": iter(openings), "question": iter(questions)}
    return [next(made[prompt.kind]) for prompt in prompts]


def _write(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    kind: Kind,
    sampling: Sampling,
    num_tokens: int,
) -> list[Generation]:
    own = [prompt for prompt in prompts if prompt.kind == kind]
    context_tokens = decoder.architecture.context_tokens
    texts = generate_batch(
        decoder,
        [_ids(prompt, tokenizer, context_tokens, num_tokens).ids for prompt in own],
        num_tokens=num_tokens,
        sampling=sampling,
        stop_ids={tokenizer.end_of_text_id, tokenizer.special_id(IM_END)},
        max_rows=ROWS,
    )
    return [
        Generation(
            kind=kind,
            style=prompt.style,
            prompt=prompt.messages[-1].content if prompt.messages else prompt.text,
            text=tokenizer.decode(written),
            expected=prompt.expected,
            num_tokens=len(written),
            finish=_finish(len(written), num_tokens),
        )
        for prompt, written in zip(own, texts, strict=True)
    ]


def _ids(
    prompt: Prompt, tokenizer: Tokenizer, context_tokens: int, answer_tokens: int
) -> PromptIds:
    room = {"context_tokens": context_tokens, "answer_tokens": answer_tokens}
    if prompt.messages:
        return fit_conversation(prompt.messages, tokenizer, **room)
    return fit_text([tokenizer.end_of_text_id, *tokenizer.encode(prompt.text)], **room)


def _finish(num_written: int, num_tokens: int) -> Literal["stop", "length"]:
    return "stop" if num_written < num_tokens else "length"
