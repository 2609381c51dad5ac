"""Text generation: ids or text, at once or streamed, one prompt or many.

Greedy text equals what the whole forward pass would choose token by token. A sequence longer than
the context is continued from its last ``context_tokens`` tokens alone, which then take the
positions from zero on. Conversations instead lose their oldest turns: ``model.text.conversation``.
Stop ids end a sequence in ``model.inference.batching``, stop strings in
``model.inference.stop_strings``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

from model.config.trained_model import Style
from model.inference.batching import BatchEngine, GenerationRequest
from model.inference.decoder import Decoder
from model.inference.sampling import Sampling
from model.inference.stop_strings import StopStringDetokenizer
from model.network.gpt import GPT
from model.text.chat_template import Message
from model.text.conversation import conversation_ids
from model.text.tokenizer import Tokenizer

NUM_SLOTS = 16


def prompt_ids(prompt: str, tokenizer: Tokenizer, *, style: Style) -> list[int]:
    """Return the ids of a prompt that begins a text, or is a user's first message."""
    if style == "chat":
        return conversation_ids([Message(role="user", content=prompt)], tokenizer)
    return [tokenizer.end_of_text_id, *tokenizer.encode(prompt)]


def generate(
    model: GPT | Decoder,
    ids: Sequence[int],
    *,
    num_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    stop_ids: Collection[int] = (),
) -> list[int]:
    """Return at most ``num_tokens`` ids generated after a prompt, up to one of ``stop_ids``.

    Args:
        temperature: 0 takes the likeliest token each time.
        top_k: sample among this many likeliest tokens; 0 = all.
        seed: the same prompt, settings and machine give the same ids.
    """
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=1, repetition_penalty=1, seed=seed
    )
    stream = stream_ids(model, ids, num_tokens=num_tokens, sampling=sampling, stop_ids=stop_ids)
    return list(stream)


def generate_batch(
    model: GPT | Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    until: Callable[[Sequence[int]], bool] | None = None,
    num_slots: int = NUM_SLOTS,
) -> list[list[int]]:
    """Return the ids generated after each of many prompts, in their order.

    Args:
        sampling: of every prompt; the prompt of index i samples with ``seed`` + i.
        until: called with the ids generated so far, after each one; true ends the sequence.
        num_slots: prompts decoded at once; the others wait for a slot.
    """
    engine = BatchEngine(_decoder(model), num_slots=num_slots)
    requests = []
    for index, prompt in enumerate(prompts):
        seed = None if sampling.seed is None else sampling.seed + index
        own = sampling.model_copy(update={"seed": seed})
        requests.append(
            GenerationRequest(prompt, max_tokens=num_tokens, sampling=own, stop_ids=stop_ids)
        )
        engine.add(requests[-1])
    while events := engine.step():
        for request, _ in events:
            if until and request.finish_reason is None and until(request.output_ids):
                engine.evict(request)
    return [request.output_ids for request in requests]


def stream_ids(
    model: GPT | Decoder,
    ids: Sequence[int],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
) -> Generator[int, None, None]:
    """Yield the ids generated after a prompt, each as soon as it is sampled."""
    engine = BatchEngine(_decoder(model), num_slots=1)
    request = GenerationRequest(ids, max_tokens=num_tokens, sampling=sampling, stop_ids=stop_ids)
    engine.add(request)
    try:
        while request.finish_reason is None:
            for _, token in engine.step():
                if token is not None:
                    yield token
    finally:
        engine.evict(request)


def stream_text(
    model: GPT | Decoder,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    stop_strings: Sequence[str] = (),
) -> Generator[str, None, None]:
    """Yield the text generated after a prompt, up to a stop string, in whole characters."""
    detokenizer = StopStringDetokenizer(tokenizer, stop_strings=stop_strings)
    tokens = stream_ids(model, ids, num_tokens=num_tokens, sampling=sampling, stop_ids=stop_ids)
    for token in tokens:
        if piece := detokenizer.push(token):
            yield piece
        if detokenizer.is_stopped:
            return
    if rest := detokenizer.flush():
        yield rest


def _decoder(model: GPT | Decoder) -> Decoder:
    return model if isinstance(model, Decoder) else Decoder(model)
