"""Writing text with a model: ids or text, at once or as a stream, one prompt or many.

Greedy text equals what the whole forward pass would choose token by token. A sequence longer than
the context is continued from its last ``context_tokens`` tokens alone, which then take the
positions from zero on. Conversations instead lose their oldest turns: ``model.text.conversation``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

from model.config.evaluation import Style
from model.inference.batching import BatchEngine, Writing
from model.inference.decoder import Decoder
from model.inference.sampling import Sampling
from model.inference.text_stream import TextStream
from model.network.gpt import GPT
from model.text.chat_template import Message
from model.text.conversation import conversation_ids
from model.text.tokenizer import Tokenizer

BATCH_ROWS = 16


def prompt_ids(prompt: str, tokenizer: Tokenizer, *, style: Style) -> list[int]:
    """Return what a model reads before it writes.

    Args:
        style: the prompt begins a text, or is a user's first message.
    """
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
    max_rows: int = BATCH_ROWS,
) -> list[list[int]]:
    """Return what a model writes after each of many prompts, in their order.

    Args:
        sampling: of every prompt; the prompt of index i is drawn with ``seed`` + i.
        until: told the ids written so far, after each one; a text ends where it says so.
        max_rows: texts written side by side; the others wait for a row.

    Raises:
        TokenizerError: a prompt is empty or holds an id outside of the vocabulary.
    """
    engine = BatchEngine(_decoder(model), max_rows=max_rows)
    writings = []
    for index, prompt in enumerate(prompts):
        seed = None if sampling.seed is None else sampling.seed + index
        own = sampling.model_copy(update={"seed": seed})
        writings.append(Writing(prompt, max_tokens=num_tokens, sampling=own, stop_ids=stop_ids))
        engine.join(writings[-1])
    while events := engine.step():
        for writing, _ in events:
            if until and writing.finish is None and until(writing.written):
                engine.leave(writing)
    return [writing.written for writing in writings]


def stream_ids(
    model: GPT | Decoder,
    ids: Sequence[int],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
) -> Generator[int, None, None]:
    """Yield the ids a model writes after a prompt, each as soon as it is drawn.

    Raises:
        TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
    """
    engine = BatchEngine(_decoder(model), max_rows=1)
    writing = Writing(ids, max_tokens=num_tokens, sampling=sampling, stop_ids=stop_ids)
    engine.join(writing)
    try:
        while writing.finish is None:
            for _, token in engine.step():
                if token is not None:
                    yield token
    finally:
        engine.leave(writing)


def stream_text(
    model: GPT | Decoder,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    *,
    num_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    stops: Sequence[str] = (),
) -> Generator[str, None, None]:
    """Yield the text a model writes after a prompt, in pieces of whole characters.

    Args:
        stops: writing ends before the first of these texts.

    Raises:
        TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
    """
    text = TextStream(tokenizer, stops=stops)
    for token in stream_ids(
        model, ids, num_tokens=num_tokens, sampling=sampling, stop_ids=stop_ids
    ):
        piece = text.push(token)
        if piece:
            yield piece
        if text.is_stopped:
            return
    rest = text.close()
    if rest:
        yield rest


def _decoder(model: GPT | Decoder) -> Decoder:
    return model if isinstance(model, Decoder) else Decoder(model)
