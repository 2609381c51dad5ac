"""The thread that runs a model's batch engine for all requests of a server.

HTTP requests live in the event loop, the engine in a thread of its own. Before each step the thread
adds new requests and evicts cancelled ones; after it, all new text goes to the event loop in one
call. Stop strings are applied here, by the ``StopStringDetokenizer`` of each request.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from model.core.errors import LLMError
from model.export.hf_reader import PretrainedModel
from model.inference.batching import BatchEngine, FinishReason, GenerationRequest, require_prompt
from model.inference.decoder import Decoder
from model.inference.sampling import Sampling
from model.inference.stop_strings import StopStringDetokenizer

logger = logging.getLogger(__name__)


class OverloadedError(LLMError):
    """The queue of waiting requests is full."""


@dataclass(frozen=True)
class OutputChunk:
    """What one step added to an output; ``finish_reason`` or ``error`` end it."""

    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: Exception | None = None


ChunkQueue = asyncio.Queue[tuple[int, OutputChunk]]


@dataclass(frozen=True)
class OutputStream:
    """The outputs of requests submitted together, as one queue of (index of the request, chunk).

    ``cancel`` evicts the requests that have not ended, and returns their number.
    """

    num_outputs: int
    chunks: ChunkQueue
    cancel: Callable[[], int]


@dataclass(frozen=True, eq=False)
class _Output:
    """An open request: its index among those submitted together, and where its chunks go."""

    index: int
    detokenizer: StopStringDetokenizer
    chunks: ChunkQueue


class GenerationWorker:
    """A model's batch engine in a thread of its own.

    Args:
        num_slots: requests decoded at once.
        max_waiting: requests that may wait for a slot.
        loop: event loop of the HTTP requests.
        on_step: called after each step with the number of requests in it.
    """

    def __init__(
        self,
        pretrained: PretrainedModel,
        *,
        num_slots: int,
        max_waiting: int,
        loop: asyncio.AbstractEventLoop,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.pretrained = pretrained
        self._decoder = Decoder(pretrained.model)
        self._num_slots = num_slots
        self._max_open = num_slots + max_waiting
        self._on_step = on_step
        self._loop = loop
        self._changed = threading.Condition()
        self._open: dict[GenerationRequest, _Output] = {}
        self._new: list[GenerationRequest] = []
        self._cancelled: list[GenerationRequest] = []
        self._closing = False
        self._engine = BatchEngine(self._decoder, num_slots=num_slots)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Number of requests that run or wait."""
        return len(self._open)

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: Sequence[int],
        sampling: Sequence[Sampling],
        stop_strings: Sequence[str] = (),
        stop_ids: Collection[int] = (),
    ) -> OutputStream:
        """Queue a generation request for each prompt, with its own limit: all of them, or none.

        Raises:
            OverloadedError: the queue is full.
            TokenizerError: a prompt is empty or holds an id outside of the vocabulary.
        """
        for prompt in prompts:
            require_prompt(prompt, vocab_size=self.pretrained.tokenizer.vocab_size)
        requests = [
            GenerationRequest(prompt, max_tokens=length, sampling=own, stop_ids=stop_ids)
            for prompt, length, own in zip(prompts, max_tokens, sampling, strict=True)
        ]
        chunks: ChunkQueue = asyncio.Queue()
        with self._changed:
            if len(self._open) + len(requests) > self._max_open:
                raise OverloadedError(
                    "all slots of the server are taken and its queue is full",
                    expected=f"at most {self._max_open} texts running or waiting",
                    found=f"{len(self._open)} open, {len(requests)} more requested",
                    fix="retry in a moment",
                )
            for index, request in enumerate(requests):
                detokenizer = StopStringDetokenizer(
                    self.pretrained.tokenizer, stop_strings=stop_strings
                )
                self._open[request] = _Output(index, detokenizer, chunks)
            self._new += requests
            self._changed.notify()
        return OutputStream(len(requests), chunks, lambda: self._cancel(requests))

    def _cancel(self, requests: Sequence[GenerationRequest]) -> int:
        with self._changed:
            cancelled = [request for request in requests if self._open.pop(request, None)]
            self._cancelled += cancelled
            self._changed.notify()
            return len(cancelled)

    def close(self) -> None:
        """End the thread once all open requests have ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        while self._apply_changes():
            try:
                events = self._engine.step()
            except Exception as exc:
                logger.exception("a step failed: its requests end, the server continues")
                self._fail(exc)
                continue
            chunks = [self._next_chunk(request, token) for request, token in events]
            self._on_step(len(chunks))
            self._deliver([pair for pair in chunks if pair])

    def _apply_changes(self) -> bool:
        """Wait, add new requests, evict cancelled ones; return False when the thread is to end."""
        with self._changed:
            while not (self._new or self._cancelled or self._engine.is_busy):
                if self._closing:
                    return False
                self._changed.wait()
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
        for request in new:
            self._engine.add(request)
        for request in cancelled:
            self._engine.evict(request)
        return True

    def _next_chunk(
        self, request: GenerationRequest, token: int | None
    ) -> tuple[_Output, OutputChunk] | None:
        """Detokenize one token, end the request at a stop string, and return the new text."""
        output = self._open.get(request)
        if output is None:
            return None  # cancelled while the step ran
        text = "" if token is None else output.detokenizer.push(token)
        finish_reason = "stop" if output.detokenizer.is_stopped else request.finish_reason
        if finish_reason:
            self._engine.evict(request)
            text += output.detokenizer.flush()
            with self._changed:
                self._open.pop(request, None)
        return output, OutputChunk(text, int(token is not None), finish_reason)

    def _fail(self, error: Exception) -> None:
        """End every request with an error and continue with an empty cache."""
        with self._changed:
            outputs, self._open, self._new = list(self._open.values()), {}, []
        self._decoder = Decoder(self.pretrained.model)
        self._engine = BatchEngine(self._decoder, num_slots=self._num_slots)
        self._deliver([(output, OutputChunk(error=error)) for output in outputs])

    def _deliver(self, chunks: Sequence[tuple[_Output, OutputChunk]]) -> None:
        def put() -> None:
            for output, chunk in chunks:
                output.chunks.put_nowait((output.index, chunk))

        try:
            self._loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop has closed: nobody is left to read
            logger.debug("text of a closed server is dropped")
