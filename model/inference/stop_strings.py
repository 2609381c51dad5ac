"""Stop strings, applied while ids are detokenized: output ends before the first of them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from model.text.tokenizer import SPECIAL_TOKENS, Tokenizer


class StopStringDetokenizer:
    """Incremental detokenizer of one sequence that ends it before a stop string.

    Bytes of an incomplete character are held back, and so is text that may begin a stop string.
    Special tokens give no text.
    """

    def __init__(self, tokenizer: Tokenizer, *, stop_strings: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = [stop for stop in stop_strings if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Return the text that can be shown; text that may begin a stop string is held back."""
        if self.is_stopped or token < len(SPECIAL_TOKENS):
            return ""
        text = self._held + self._decoder.decode(self._tokenizer.token_bytes[token])
        ends = [text.find(stop) for stop in self._stop_strings if stop in text]
        if ends:
            self.is_stopped, self._held = True, ""
            return text[: min(ends)]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """Return the text still held back; bytes of an incomplete character are dropped."""
        rest, self._held = self._held, ""
        return rest

    def _num_held(self, text: str) -> int:
        """Count the characters at the end of a text that may begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop_strings), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop_strings):
                return size
        return 0
