"""Continuous batching: many requests decoded together, one token each per step.

Requests are admitted to free slots and evicted from them between steps, so none waits for another
one's end. A step also prefills the prompts of the requests it admits. One thread drives an engine;
``model.serve.worker`` gives it one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch

from model.core.errors import TokenizerError
from model.inference.decoder import Decoder
from model.inference.sampling import Sampler, Sampling, pick_tokens

PREFILL_TOKENS_PER_STEP = 2048  # prompts read in one step, padding counted: others wait meanwhile

FinishReason = Literal["stop", "length"]


class GenerationRequest:
    """A prompt, its limits, and the ids generated so far; none of the ``stop_ids`` is."""

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling,
        stop_ids: Collection[int] = (),
    ) -> None:
        self.prompt = list(prompt)
        self.max_tokens = max_tokens
        self.sampler = Sampler(sampling, prompt)
        self.stop_ids = stop_ids
        self.output_ids: list[int] = []
        self.finish_reason: FinishReason | None = "length" if max_tokens < 1 else None

    def window(self, num_tokens: int) -> list[int]:
        """Return the last tokens of prompt and output."""
        return [*self.prompt, *self.output_ids][-num_tokens:]

    def append(self, token: int) -> bool:
        """Add a sampled token; return whether it is part of the output, which a stop id is not."""
        if token in self.stop_ids:
            self.finish_reason = "stop"
            return False
        self.output_ids.append(token)
        if len(self.output_ids) >= self.max_tokens:
            self.finish_reason = "length"
        return True


class BatchEngine:
    """The requests of one model that are decoded together.

    A sequence that has filled the context continues from its last ``context_tokens`` tokens alone,
    which then take the positions from zero on; each of its further tokens costs a whole window.

    Args:
        decoder: used by this engine alone while requests run.
        num_slots: requests decoded at once; more wait in a queue.
    """

    def __init__(self, decoder: Decoder, *, num_slots: int) -> None:
        assert decoder.num_rows == 0, "a decoder serves one engine at a time"
        self.decoder = decoder
        self.num_slots = num_slots
        self._running: list[GenerationRequest] = []  # in the order of the decoder's rows
        self._waiting: list[GenerationRequest] = []

    @property
    def is_busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self._running or self._waiting)

    def add(self, request: GenerationRequest) -> None:
        """Queue a request; the next step with a free slot admits it."""
        require_prompt(request.prompt, vocab_size=self.decoder.architecture.vocab_size)
        if request.finish_reason is None:
            self._waiting.append(request)

    def evict(self, request: GenerationRequest) -> None:
        """Remove a request, running or waiting; its slot is free for the next step."""
        if request in self._waiting:
            self._waiting.remove(request)
        if request in self._running:
            row, last = self._running.index(request), self._running.pop()
            self.decoder.evict(row)
            if last is not request:
                self._running[row] = last

    def step(self) -> list[tuple[GenerationRequest, int | None]]:
        """Generate one token of each running request and return them; None for a stop id."""
        prefilled = self._evict_overflown()
        logits = []
        if self._running:
            logits.append(self.decoder.step([request.output_ids[-1] for request in self._running]))
        prefilled += self._admit(num_slots=self.num_slots - len(self._running) - len(prefilled))
        if prefilled:
            context_tokens = self.decoder.architecture.context_tokens
            windows = [request.window(context_tokens) for request in prefilled]
            logits.append(self.decoder.prefill(windows))
            self._running += prefilled
        if not logits:
            return []
        tokens = pick_tokens(torch.cat(logits), [request.sampler for request in self._running])
        events = [
            (request, token if request.append(token) else None)
            for request, token in zip(self._running, tokens, strict=True)
        ]
        for request, _ in events:
            if request.finish_reason:
                self.evict(request)
        return events

    def _evict_overflown(self) -> list[GenerationRequest]:
        """Evict requests that have filled their context, to be prefilled with their last window."""
        context_tokens = self.decoder.architecture.context_tokens
        lengths = zip(self._running, self.decoder.lengths, strict=True)
        full = [request for request, length in lengths if length >= context_tokens]
        for request in full:
            self.evict(request)
        return full

    def _admit(self, *, num_slots: int) -> list[GenerationRequest]:
        """Take from the queue what has a slot and one step can prefill; at least one if any."""
        admitted: list[GenerationRequest] = []
        longest = 0
        while self._waiting and len(admitted) < num_slots:
            longest = max(longest, len(self._waiting[0].prompt))
            if admitted and longest * (len(admitted) + 1) > PREFILL_TOKENS_PER_STEP:
                break
            admitted.append(self._waiting.pop(0))
        return admitted


def require_prompt(ids: Sequence[int], *, vocab_size: int) -> None:
    """Check that a model can read a prompt.

    Raises:
        TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
    """
    outside = [index for index in ids if not 0 <= index < vocab_size]
    if not ids or outside:
        raise TokenizerError(
            "a model cannot continue this prompt",
            expected=f"at least one id, each from 0 to {vocab_size - 1}",
            found=f"id {outside[0]}" if outside else "no ids",
            fix="start with <|endoftext|>, and use the tokenizer the model was trained with",
        )
