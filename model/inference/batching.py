"""Many texts written at once, one token each per step; texts join and leave between steps.

Each step adds a token to the texts that run and reads the prompts of texts that join, so a text
never waits for another one's end. One thread drives an engine; ``model.serve.worker`` gives it one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch

from model.core.errors import TokenizerError
from model.inference.decoder import Decoder
from model.inference.sampling import Sampler, Sampling, pick_tokens

JOIN_TOKENS_PER_STEP = 2048  # prompts read in one step, padding counted: others wait meanwhile

Finish = Literal["stop", "length"]


class Writing:
    """One text that is being written.

    Args:
        prompt: ids the model reads first.
        max_tokens: at most this many are written.
        stop_ids: writing ends before any of these.
    """

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
        self.written: list[int] = []
        self.finish: Finish | None = "length" if max_tokens < 1 else None

    def window(self, num_tokens: int) -> list[int]:
        """Return the last tokens of the prompt and what is written."""
        return [*self.prompt, *self.written][-num_tokens:]

    def take(self, token: int) -> bool:
        """Note a drawn token; say whether it is part of the text."""
        if token in self.stop_ids:
            self.finish = "stop"
            return False
        self.written.append(token)
        if len(self.written) >= self.max_tokens:
            self.finish = "length"
        return True


class BatchEngine:
    """The texts of one model that are written side by side.

    A text that has filled the context goes on from its last ``context_tokens`` tokens alone, which
    then take the positions from zero on; each of its further tokens costs a whole window.

    Args:
        decoder: the engine's alone while texts run.
        max_rows: texts that run at once; more wait for a row.
    """

    def __init__(self, decoder: Decoder, *, max_rows: int) -> None:
        assert decoder.num_rows == 0, "a decoder serves one engine at a time"
        self.decoder = decoder
        self.max_rows = max_rows
        self._rows: list[Writing] = []
        self._waiting: list[Writing] = []

    @property
    def is_busy(self) -> bool:
        """Say whether any text runs or waits."""
        return bool(self._rows or self._waiting)

    def join(self, writing: Writing) -> None:
        """Have a text written from the next step on that has a free row.

        Raises:
            TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
        """
        require_prompt(writing.prompt, vocab_size=self.decoder.architecture.vocab_size)
        if writing.finish is None:
            self._waiting.append(writing)

    def leave(self, writing: Writing) -> None:
        """Stop writing a text; its row is free for the next step."""
        if writing in self._waiting:
            self._waiting.remove(writing)
        if writing in self._rows:
            row, last = self._rows.index(writing), self._rows.pop()
            self.decoder.leave(row)
            if last is not writing:
                self._rows[row] = last

    def step(self) -> list[tuple[Writing, int | None]]:
        """Write one token of each running text, and return them; None where a stop id came."""
        joining = self._overflown()
        logits = []
        if self._rows:
            logits.append(self.decoder.step([writing.written[-1] for writing in self._rows]))
        joining += self._admitted(num_rows=self.max_rows - len(self._rows) - len(joining))
        if joining:
            context_tokens = self.decoder.architecture.context_tokens
            windows = [writing.window(context_tokens) for writing in joining]
            logits.append(self.decoder.join(windows))
            self._rows += joining
        if not logits:
            return []
        tokens = pick_tokens(torch.cat(logits), [writing.sampler for writing in self._rows])
        events = [
            (writing, token if writing.take(token) else None)
            for writing, token in zip(self._rows, tokens, strict=True)
        ]
        for writing, _ in events:
            if writing.finish:
                self.leave(writing)
        return events

    def _overflown(self) -> list[Writing]:
        """Take texts that have filled their context out of their rows."""
        context_tokens = self.decoder.architecture.context_tokens
        lengths = zip(self._rows, self.decoder.lengths, strict=True)
        full = [writing for writing, length in lengths if length >= context_tokens]
        for writing in full:
            self.leave(writing)
        return full

    def _admitted(self, *, num_rows: int) -> list[Writing]:
        """Take from the queue what has a row and can be read in one step; at least one if any."""
        admitted: list[Writing] = []
        longest = 0
        while self._waiting and len(admitted) < num_rows:
            longest = max(longest, len(self._waiting[0].prompt))
            if admitted and longest * (len(admitted) + 1) > JOIN_TOKENS_PER_STEP:
                break
            admitted.append(self._waiting.pop(0))
        return admitted


def require_prompt(ids: Sequence[int], *, vocab_size: int) -> None:
    """Refuse a prompt that a model cannot read.

    Raises:
        TokenizerError: the prompt is empty or holds an id outside of the vocabulary.
    """
    outside = [index for index in ids if not 0 <= index < vocab_size]
    if not ids or outside:
        raise TokenizerError(
            "a model cannot go on from this prompt",
            expected=f"at least one id, each from 0 to {vocab_size - 1}",
            found=f"id {outside[0]}" if outside else "no ids",
            fix="start with <|endoftext|>, and use the tokenizer the model was trained with",
        )
