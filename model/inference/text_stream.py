"""Tokens to text as they are written: whole characters only, nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from model.text.tokenizer import SPECIAL_TOKENS, Tokenizer


class TextStream:
    """The text of one answer, piece by piece.

    Bytes of a character that is not complete yet are held back, and so is text that may turn out to
    begin a stop string. Special tokens give no text.

    Args:
        stops: the text ends before the first of these.
    """

    def __init__(self, tokenizer: Tokenizer, *, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Return the text that is certain once ``token`` is written; often one token late."""
        if self.is_stopped or token < len(SPECIAL_TOKENS):
            return ""
        text = self._held + self._decoder.decode(self._tokenizer.token_bytes[token])
        ends = [text.find(stop) for stop in self._stops if stop in text]
        if ends:
            self.is_stopped, self._held = True, ""
            return text[: min(ends)]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def close(self) -> str:
        """Return the text still held back; bytes of an unfinished character are dropped."""
        rest, self._held = self._held, ""
        return rest

    def _num_held(self, text: str) -> int:
        """Count the characters at the end of a text that may begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
