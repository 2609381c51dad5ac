"""Generation of texts for judging: sampled continuations, and greedy one-line answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.config.trained_model import ScoreConfig
from model.data.prompts import Generation, Prompt
from model.inference.decoder import Decoder
from model.inference.generate import generate_batch, prompt_ids
from model.inference.sampling import GREEDY, Sampling
from model.network.gpt import GPT
from model.text.conversation import conversation_ids
from model.text.tokenizer import Tokenizer

NUM_SLOTS = 64


def generate_texts(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[Prompt], *, config: ScoreConfig
) -> list[Generation]:
    """Return a text for each prompt, in their order.

    A prompt longer than the context is truncated to its last tokens.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=1,
        repetition_penalty=1,
        seed=config.seed,
    )
    decoder = Decoder(model)
    openings = _generate(
        decoder,
        tokenizer,
        [prompt for prompt in prompts if prompt.kind == "opening"],
        num_tokens=config.generation_tokens,
        sampling=sampling,
    )
    questions = _generate(
        decoder,
        tokenizer,
        [prompt for prompt in prompts if prompt.kind == "question"],
        num_tokens=config.answer_tokens,
        sampling=GREEDY,
        until=_first_line_ends(tokenizer),
    )
    by_kind = {"opening": iter(openings), "question": iter(questions)}
    return [next(by_kind[prompt.kind]) for prompt in prompts]


def _generate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    num_tokens: int,
    sampling: Sampling,
    until: Callable[[Sequence[int]], bool] | None = None,
) -> list[Generation]:
    outputs = generate_batch(
        decoder,
        [_ids(prompt, tokenizer) for prompt in prompts],
        num_tokens=num_tokens,
        sampling=sampling,
        stop_ids=tokenizer.stop_ids,
        until=until,
        num_slots=NUM_SLOTS,
    )
    return [
        Generation(
            kind=prompt.kind,
            style=prompt.style,
            prompt=prompt.messages[-1].content if prompt.messages else prompt.text,
            text=tokenizer.decode(output_ids),
            expected=prompt.expected,
            num_tokens=len(output_ids),
            finish="stop" if len(output_ids) < num_tokens else "length",
        )
        for prompt, output_ids in zip(prompts, outputs, strict=True)
    ]


def _first_line_ends(tokenizer: Tokenizer) -> Callable[[Sequence[int]], bool]:
    """Return a check whether a line with words in it has ended: an answer is one line."""
    newline_ids = {index for index, token in enumerate(tokenizer.token_bytes) if b"\n" in token}

    def ends(output_ids: Sequence[int]) -> bool:
        return output_ids[-1] in newline_ids and "\n" in tokenizer.decode(output_ids).lstrip()

    return ends


def _ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    if prompt.messages:
        return conversation_ids(prompt.messages, tokenizer)
    return prompt_ids(prompt.text, tokenizer, style="text")
