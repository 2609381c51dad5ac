"""From a checked request to its answer: prompt, writing, and the bytes that go to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from model.core.errors import ConfigError
from model.inference.sampling import Sampling
from model.serve.hot_reload import Served
from model.serve.metrics import Metrics
from model.serve.openai_api import (
    DONE,
    ApiError,
    BaseRequest,
    ChatRequest,
    CompletionRequest,
    Reply,
    Usage,
    event,
)
from model.serve.worker import Answer, OverloadedError, Piece
from model.text.conversation import Prompt, fit_conversation, fit_text

MAX_CHOICES = 16  # texts of one request: prompts times n


@dataclass
class Answering:
    """The answers of one request while they are written."""

    reply: Reply
    answers: list[Answer]
    usage: Usage
    metrics: Metrics
    wants_usage: bool
    started: float

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield what is written, with the index of its choice, until all choices have ended.

        Raises:
            ApiError: the model failed.
        """
        items = self._single() if len(self.answers) == 1 else self._merged()
        async for index, piece in items:
            yield index, self._counted(piece)

    async def _single(self) -> AsyncIterator[tuple[int, Piece]]:
        piece = Piece()
        while not piece.finish:
            piece = await self.answers[0].pieces.get()
            yield 0, piece

    async def _merged(self) -> AsyncIterator[tuple[int, Piece]]:
        waiting = {
            asyncio.ensure_future(answer.pieces.get()): index
            for index, answer in enumerate(self.answers)
        }
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    index, piece = waiting.pop(task), task.result()
                    yield index, piece
                    if not piece.finish:
                        queue = self.answers[index].pieces
                        waiting[asyncio.ensure_future(queue.get())] = index
        finally:
            for task in waiting:
                task.cancel()

    def _counted(self, piece: Piece) -> Piece:
        if piece.error:
            raise ApiError(
                "the model failed while it wrote; the server's log says why",
                status=500,
                kind="server_error",
            ) from piece.error
        seconds = time.perf_counter() - self.started
        if self.usage.completion_tokens == 0 and piece.num_tokens:
            self.metrics.first_token.observe(seconds)
        self.usage.completion_tokens += piece.num_tokens
        self.metrics.written_tokens.inc(piece.num_tokens)
        if piece.finish:
            self.metrics.duration.observe(seconds)
        return piece

    async def whole(self) -> dict[str, Any]:
        """Return the answer at once."""
        texts, finishes = [""] * len(self.answers), [""] * len(self.answers)
        async for index, piece in self.pieces():
            texts[index] += piece.text
            finishes[index] = piece.finish or ""
        return self.reply.whole(list(zip(texts, finishes, strict=True)), self.usage)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events."""
        try:
            yield b"".join(self.reply.opening(index) for index in range(len(self.answers)))
            async for index, piece in self.pieces():
                data = self.reply.piece(index, piece.text) if piece.text else b""
                data += self.reply.closing(index, piece.finish) if piece.finish else b""
                if data:
                    yield data
            if self.wants_usage:
                yield self.reply.usage(self.usage)
        except ApiError as error:
            yield event(error.body())
        yield DONE

    def cancel(self) -> None:
        """Free the rows of what has not ended."""
        num_cancelled = sum(answer.cancel() for answer in self.answers)
        self.metrics.cancelled.inc(num_cancelled)


class EventStream(StreamingResponse):
    """Server-sent events that stop the writing when the client is gone, whenever that is."""

    def __init__(self, answering: Answering) -> None:
        super().__init__(
            answering.events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.cancel()


def start_answering(
    request: ChatRequest | CompletionRequest, served: Served, metrics: Metrics, *, usual_tokens: int
) -> Answering:
    """Have a request's texts written.

    Args:
        usual_tokens: length of an answer where the request names none.

    Raises:
        ApiError: the request cannot be honoured, or the queue is full.
    """
    started = time.perf_counter()
    context_tokens = served.pretrained.model.architecture.context_tokens
    wanted = request.wanted_tokens or min(usual_tokens, context_tokens - 1)
    if wanted >= context_tokens:
        raise ApiError(
            f"max_tokens is {wanted}; this model has a context of {context_tokens} tokens, prompt "
            f"and answer together, so at most {context_tokens - 1} can be asked for",
            param="max_tokens",
        )
    prompts = _prompts(request, served, context_tokens=context_tokens, wanted=wanted)
    usual = served.pretrained.sampling
    try:
        answers = served.thread.submit(
            [prompt.ids for prompt in prompts for _ in range(request.n)],
            max_tokens=[
                min(wanted, context_tokens - len(prompt.ids))
                for prompt in prompts
                for _ in range(request.n)
            ],
            sampling=_samplings(request, usual, len(prompts) * request.n),
            stops=request.stops,
            stop_ids=served.pretrained.stop_ids,
        )
    except OverloadedError as exc:
        raise ApiError(
            str(exc), status=429, kind="rate_limit_error", code="rate_limit_exceeded"
        ) from exc
    num_read = sum(len(prompt.ids) for prompt in prompts)
    metrics.prompt_tokens.inc(num_read)
    is_chat = isinstance(request, ChatRequest)
    reply = Reply("chat.completion" if is_chat else "text_completion", model=served.name)
    return Answering(reply, answers, Usage(num_read), metrics, request.wants_usage, started)


def _samplings(request: BaseRequest, usual: Sampling, num_texts: int) -> list[Sampling]:
    """Return the settings of each text: those after the first draw from seeds of their own."""
    sampling = request.sampling(usual)
    if sampling.seed is None:
        return [sampling] * num_texts
    seeds = range(sampling.seed, sampling.seed + num_texts)
    return [sampling.model_copy(update={"seed": seed}) for seed in seeds]


def _prompts(
    request: ChatRequest | CompletionRequest, served: Served, *, context_tokens: int, wanted: int
) -> Sequence[Prompt]:
    tokenizer = served.pretrained.tokenizer
    if isinstance(request, ChatRequest):
        messages = [message.plain() for message in request.messages]
        try:
            prompt = fit_conversation(
                messages, tokenizer, context_tokens=context_tokens, answer_tokens=wanted
            )
        except ConfigError as exc:
            raise ApiError(str(exc), param="messages", code="context_length_exceeded") from exc
        return [prompt]
    prompts = request.prompts
    if not 0 < len(prompts) * request.n <= MAX_CHOICES:
        raise ApiError(
            f"a request takes 1 to {MAX_CHOICES} texts; this one asks for "
            f"{len(prompts)} prompts, {request.n} each",
            param="prompt",
        )
    ids = [
        [tokenizer.end_of_text_id, *tokenizer.encode(prompt)] if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]
    return [fit_text(item, context_tokens=context_tokens, answer_tokens=wanted) for item in ids]


async def answer_or_leave(request: Request, answering: Answering) -> dict[str, Any] | None:
    """Return the whole answer; None, and nothing more is written, if the client goes away."""
    writing = asyncio.ensure_future(answering.whole())
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return writing.result() if writing.done() else None
    finally:
        writing.cancel()
        leaving.cancel()
        answering.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
