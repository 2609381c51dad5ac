"""Turn checked API requests into generation requests, and format their output as JSON or events."""

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
from model.inference.generate import prompt_ids
from model.inference.sampling import Sampling
from model.serve.hot_reload import LoadedModel
from model.serve.middleware import Metrics
from model.serve.openai_api import (
    DONE,
    ApiError,
    BaseRequest,
    ChatRequest,
    CompletionRequest,
    ResponseFormatter,
    Usage,
    sse_event,
)
from model.serve.worker import OutputChunk, OutputStream, OverloadedError
from model.text.conversation import FittedPrompt, fit_conversation, fit_text

MAX_CHOICES = 16  # of one request: prompts times n


@dataclass
class Completion:
    """The choices of one API request while they are generated."""

    formatter: ResponseFormatter
    outputs: OutputStream  # one per choice
    usage: Usage
    metrics: Metrics
    wants_usage: bool
    started: float

    async def chunks(self) -> AsyncIterator[tuple[int, OutputChunk]]:
        """Yield (index of the choice, chunk) until all choices have ended.

        Raises:
            ApiError: the model failed.
        """
        num_open = self.outputs.num_outputs
        while num_open:
            index, chunk = await self.outputs.chunks.get()
            yield index, self._counted(chunk)
            num_open -= bool(chunk.finish_reason)

    def _counted(self, chunk: OutputChunk) -> OutputChunk:
        if chunk.error:
            raise ApiError(
                "the model failed during generation; the server's log says why",
                status=500,
                kind="server_error",
            ) from chunk.error
        seconds = time.perf_counter() - self.started
        if self.usage.completion_tokens == 0 and chunk.num_tokens:
            self.metrics.first_token.observe(seconds)
        self.usage.completion_tokens += chunk.num_tokens
        self.metrics.completion_tokens.inc(chunk.num_tokens)
        if chunk.finish_reason:
            self.metrics.duration.observe(seconds)
        return chunk

    async def response(self) -> dict[str, Any]:
        """Return the whole response, once all choices have ended."""
        texts, reasons = [""] * self.outputs.num_outputs, [""] * self.outputs.num_outputs
        async for index, chunk in self.chunks():
            texts[index] += chunk.text
            reasons[index] = chunk.finish_reason or ""
        return self.formatter.response(texts, reasons, self.usage)

    async def sse_events(self) -> AsyncIterator[bytes]:
        """Yield the response as server-sent events."""
        formatter = self.formatter
        try:
            if formatter.is_chat:
                for index in range(self.outputs.num_outputs):
                    yield formatter.event(index, {"role": "assistant", "content": ""})
            async for index, chunk in self.chunks():
                if chunk.text:
                    yield formatter.event(index, {"content": chunk.text})
                if chunk.finish_reason:
                    yield formatter.event(index, {}, finish_reason=chunk.finish_reason)
            if self.wants_usage:
                yield formatter.usage_event(self.usage)
        except ApiError as error:
            yield sse_event(error.body())
        yield DONE

    def cancel(self) -> None:
        """Cancel the requests that have not ended."""
        self.metrics.cancelled.inc(self.outputs.cancel())


class EventStream(StreamingResponse):
    """Server-sent events; the generation is cancelled when the client disconnects."""

    def __init__(self, completion: Completion) -> None:
        super().__init__(
            completion.sse_events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._completion.cancel()


def start_completion(
    request: ChatRequest | CompletionRequest,
    loaded: LoadedModel,
    metrics: Metrics,
    *,
    default_tokens: int,
) -> Completion:
    """Submit the generation requests of an API request.

    Args:
        default_tokens: ``max_tokens`` where the request sets none.
    """
    started = time.perf_counter()
    context_tokens = loaded.pretrained.model.architecture.context_tokens
    max_tokens = request.token_limit or min(default_tokens, context_tokens - 1)
    if max_tokens >= context_tokens:
        raise ApiError(
            f"max_tokens is {max_tokens}; this model has a context of {context_tokens} tokens, "
            f"prompt and answer together, so at most {context_tokens - 1} can be requested",
            param="max_tokens",
        )
    prompts = _prompts(request, loaded, context_tokens=context_tokens, max_tokens=max_tokens)
    prompt_id_lists = [prompt.ids for prompt in prompts for _ in range(request.n)]
    try:
        outputs = loaded.worker.submit(
            prompt_id_lists,
            max_tokens=[min(max_tokens, context_tokens - len(ids)) for ids in prompt_id_lists],
            sampling=_samplings(request, loaded.pretrained.sampling, len(prompt_id_lists)),
            stop_strings=request.stop_strings,
            stop_ids=loaded.pretrained.stop_ids,
        )
    except OverloadedError as exc:
        raise ApiError(
            str(exc), status=429, kind="rate_limit_error", code="rate_limit_exceeded"
        ) from exc
    num_prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    metrics.prompt_tokens.inc(num_prompt_tokens)
    formatter = ResponseFormatter(loaded.name, is_chat=isinstance(request, ChatRequest))
    usage = Usage(num_prompt_tokens)
    return Completion(formatter, outputs, usage, metrics, request.wants_usage, started)


def _samplings(request: BaseRequest, default: Sampling, num_texts: int) -> list[Sampling]:
    """Return the sampling of each text: consecutive seeds where the request sets one."""
    sampling = request.sampling(default)
    if sampling.seed is None:
        return [sampling] * num_texts
    seeds = range(sampling.seed, sampling.seed + num_texts)
    return [sampling.model_copy(update={"seed": seed}) for seed in seeds]


def _prompts(
    request: ChatRequest | CompletionRequest,
    loaded: LoadedModel,
    *,
    context_tokens: int,
    max_tokens: int,
) -> Sequence[FittedPrompt]:
    tokenizer = loaded.pretrained.tokenizer
    limits = {"context_tokens": context_tokens, "answer_tokens": max_tokens}
    if isinstance(request, ChatRequest):
        messages = [message.plain() for message in request.messages]
        try:
            return [fit_conversation(messages, tokenizer, **limits)]
        except ConfigError as exc:
            raise ApiError(str(exc), param="messages", code="context_length_exceeded") from exc
    prompts = request.prompts
    if not 0 < len(prompts) * request.n <= MAX_CHOICES:
        raise ApiError(
            f"a request takes 1 to {MAX_CHOICES} texts; this one asks for "
            f"{len(prompts)} prompts, {request.n} each",
            param="prompt",
        )
    ids = [
        prompt_ids(prompt, tokenizer, style="text") if isinstance(prompt, str) else prompt
        for prompt in prompts
    ]
    return [fit_text(item, **limits) for item in ids]


async def complete_or_cancel(request: Request, completion: Completion) -> dict[str, Any] | None:
    """Return the whole response; cancel and return None if the client disconnects."""
    response = asyncio.ensure_future(completion.response())
    disconnect = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({response, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        return response.result() if response.done() else None
    finally:
        response.cancel()
        disconnect.cancel()
        completion.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
