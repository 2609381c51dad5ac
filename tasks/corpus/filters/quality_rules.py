"""Quality rules: the class ``Rule``, Gopher's quality rules and FineWeb's own.

A rule owns the reason it gives, the measure it takes of every document of a batch, and the
published limit. Rules of one source share intermediate counts: their measures are methods of one
class. The limits on the number of words are settings of the filter and not among these rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.filters.text_buffer import (
    LETTER,
    SENTENCE_ENDS,
    WORD,
    Flags,
    Ints,
    Spans,
    TextBuffer,
    is_any,
    text_hash,
)
from tasks.corpus.shingles import mix

Values = NDArray[np.float64]
Measured = TypeVar("Measured")

GOPHER_QUALITY = "Rae et al. 2021, arXiv 2112.11446, section A1.1, quality filtering"
GOPHER_REPETITION = "Rae et al. 2021, arXiv 2112.11446, table A1"
C4 = "Raffel et al. 2020, JMLR 21(140), section 2.2"
FINEWEB = "Penedo et al. 2024, arXiv 2406.17557, section 3.6"
FINEWEB_CODE = "huggingface/datatrove 0.10.1, fineweb_quality_filter.py"
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # arXiv 2112.11446, A1.1
BULLETS = "•-"
SHORT_LINE_CHARS = 30  # arXiv 2406.17557, section 3.6
DOC_BASE = np.uint64(0xA0761D6478BD642F)  # tells equal pieces of different documents apart


@dataclass(frozen=True)
class Rule(Generic[Measured]):
    """One reason to drop a document."""

    reason: str  # the name under which documents are counted
    source: str  # where the limit is published
    measure: Callable[[Measured], Values]  # returns one value for each document of a batch
    above: float = np.inf  # a document that measures more than this is dropped
    below: float = -np.inf  # a document that measures less than this is dropped

    def drops(self, values: Values) -> Flags:
        """Return which documents are dropped."""
        return (values > self.above) | (values < self.below)

    def detail(self, value: float) -> str:
        """Return the offending value beside the limit."""
        sign, limit = (">", self.above) if value > self.above else ("<", self.below)
        return f"{value:.4g} {sign} {limit:g}"


@dataclass
class Verdicts:
    """Why each document of a batch is dropped; None where it has passed every rule so far."""

    reasons: list[str | None]
    details: list[str | None]

    @staticmethod
    def none_yet(num_docs: int) -> Verdicts:
        """Return verdicts before the first rule."""
        return Verdicts([None] * num_docs, [None] * num_docs)

    @property
    def kept(self) -> Flags:
        """Return which documents are kept."""
        return np.array([reason is None for reason in self.reasons], dtype=bool)

    def drop(self, doc: int, reason: str, detail: str) -> None:
        """Record the reason of a document, unless it has one."""
        if self.reasons[doc] is None:
            self.reasons[doc], self.details[doc] = reason, detail

    def apply(
        self,
        rules: Sequence[Rule[Measured]],
        measured: Measured,
        docs: Sequence[int] | None = None,
    ) -> None:
        """Apply rules in their order; the first that drops a document names its reason.

        ``docs`` are the numbers of the measured documents; by default, all of the batch.
        """
        for rule in rules:
            values = rule.measure(measured)
            for place in np.flatnonzero(rule.drops(values)).tolist():
                doc = place if docs is None else docs[place]
                self.drop(doc, rule.reason, rule.detail(float(values[place])))


class _LineShares:
    """A buffer with the lines that rules look at."""

    def __init__(self, buffer: TextBuffer, lines: Spans) -> None:
        self._buffer = buffer
        self._lines = lines
        self._num_words = buffer.per_doc(buffer.words.docs)

    def _share_of_lines(self, selected: Flags) -> Values:
        per_doc, docs = self._buffer.per_doc, self._lines.docs
        return share(per_doc(docs[selected]), per_doc(docs))


class GopherQuality(_LineShares):
    """Measures of Gopher's quality rules."""

    def __init__(self, buffer: TextBuffer) -> None:
        super().__init__(buffer, stripped(buffer, buffer.lines))
        self._is_alphabetic = buffer.counts_within(buffer.words, LETTER) > 0

    def word_length(self) -> Values:
        """Return the mean length of words that are not signs alone."""
        buffer, words = self._buffer, self._buffer.words
        spoken = words.where(self._is_alphabetic | (buffer.counts_within(words, WORD) > 0))
        num_chars = buffer.per_doc(spoken.docs, weights=spoken.chars)
        return share(num_chars, buffer.per_doc(spoken.docs))

    def hashes(self) -> Values:
        """Return the number of hash signs per word."""
        positions = np.flatnonzero(self._buffer.codes == ord("#"))
        return share(_num_at(self._buffer, positions), self._num_words)

    def ellipses(self) -> Values:
        """Return the number of ellipses per word."""
        positions = np.concatenate([self._buffer.find("..."), self._buffer.find("…")])
        return share(_num_at(self._buffer, positions), self._num_words)

    def bullet_lines(self) -> Values:
        """Return the share of lines that begin with a bullet."""
        lines = self._lines
        is_bullet = (lines.chars > 0) & is_any(self._buffer.codes[lines.starts], BULLETS)
        return self._share_of_lines(is_bullet)

    def ellipsis_lines(self) -> Values:
        """Return the share of lines that end in an ellipsis."""
        return self._share_of_lines(ends_in_ellipsis(self._buffer, self._lines))

    def alphabetic_words(self) -> Values:
        """Return the share of words that have a letter."""
        alphabetic = self._buffer.words.docs[self._is_alphabetic]
        return share(self._buffer.per_doc(alphabetic), self._num_words)

    def stop_words(self) -> Values:
        """Return how many of the stop words occur."""
        buffer, words = self._buffer, self._buffer.words
        is_short = words.chars <= max(map(len, STOP_WORDS))
        hashes, docs = buffer.word_hashes[is_short], words.docs[is_short]
        found = np.zeros(buffer.num_docs, np.int64)
        for word in STOP_WORDS:
            found += buffer.per_doc(docs[hashes == text_hash(word)]) > 0
        return found.astype(np.float64)


class FineWebQuality(_LineShares):
    """Measures of FineWeb's own rules; lines are those that are not blank."""

    def __init__(self, buffer: TextBuffer) -> None:
        lines = filled_lines(buffer)
        super().__init__(buffer, lines.where(stripped(buffer, lines).chars > 0))
        newlines = np.flatnonzero(buffer.codes == ord("\n"))
        self._num_newlines = _num_at(buffer, newlines) - 1  # one ends each document here

    def line_punctuation(self) -> Values:
        """Return the share of lines that end as sentences do."""
        last = self._buffer.codes[self._lines.ends - 1]
        return self._share_of_lines(is_any(last, SENTENCE_ENDS))

    def short_lines(self) -> Values:
        """Return the share of short lines."""
        return self._share_of_lines(self._lines.chars <= SHORT_LINE_CHARS)

    def duplicate_lines(self) -> Values:
        """Return the share of characters in lines that occurred before."""
        _, chars = duplicates(self._buffer, self._lines)
        return share(chars, self._buffer.doc_chars - self._num_newlines)

    def newlines(self) -> Values:
        """Return the number of newlines per word."""
        return share(self._num_newlines, self._num_words)


GOPHER_RULES: tuple[Rule[GopherQuality], ...] = (
    Rule("gopher_word_length", GOPHER_QUALITY, GopherQuality.word_length, above=10, below=3),
    Rule("gopher_hashes", GOPHER_QUALITY, GopherQuality.hashes, above=0.1),
    Rule("gopher_ellipses", GOPHER_QUALITY, GopherQuality.ellipses, above=0.1),
    Rule("gopher_bullet_lines", GOPHER_QUALITY, GopherQuality.bullet_lines, above=0.9),
    Rule("gopher_ellipsis_lines", GOPHER_QUALITY, GopherQuality.ellipsis_lines, above=0.3),
    Rule("gopher_alphabetic_words", GOPHER_QUALITY, GopherQuality.alphabetic_words, below=0.8),
    Rule("gopher_stop_words", GOPHER_QUALITY, GopherQuality.stop_words, below=2),
)
FINEWEB_RULES: tuple[Rule[FineWebQuality], ...] = (
    Rule("fineweb_line_punctuation", FINEWEB, FineWebQuality.line_punctuation, below=0.12),
    Rule("fineweb_short_lines", FINEWEB, FineWebQuality.short_lines, above=0.67),
    Rule(  # the paper says 0.1
        "fineweb_duplicate_lines", FINEWEB_CODE, FineWebQuality.duplicate_lines, above=0.01
    ),
    Rule("fineweb_newlines", FINEWEB_CODE, FineWebQuality.newlines, above=0.3),
)


# --- shared by measures --------------------------------------------------------------------------


def share(part: NDArray[np.number], whole: NDArray[np.number]) -> Values:
    """Return part / whole, zero where there is no whole."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0, dtype=np.float64)


def filled_lines(buffer: TextBuffer) -> Spans:
    """Return the lines between newlines, and only newlines, without the empty ones."""
    ends = np.flatnonzero(buffer.codes == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    is_filled = ends > starts
    return Spans(starts[is_filled], ends[is_filled], buffer.docs_at(ends[is_filled]))


def stripped(buffer: TextBuffer, lines: Spans) -> Spans:
    """Return lines without white space at their ends; an empty line is empty where it began."""
    chunks = buffer.chunks
    first = np.searchsorted(chunks.starts, lines.starts)
    last = np.searchsorted(chunks.starts, lines.ends) - 1
    is_empty = last < first
    if not len(chunks.starts):
        return Spans(lines.starts, lines.starts, lines.docs)
    starts = chunks.starts[np.minimum(first, len(chunks.starts) - 1)]
    ends = chunks.ends[np.maximum(last, 0)]
    return Spans(
        np.where(is_empty, lines.starts, starts),
        np.where(is_empty, lines.starts, ends),
        lines.docs,
    )


def ends_in_ellipsis(buffer: TextBuffer, lines: Spans) -> Flags:
    """Return which lines end in three full stops or the one character for them."""
    codes, last = buffer.codes, np.maximum(lines.ends - 1, 0)
    is_long = lines.chars >= 3
    dots = is_long.copy()
    for step in range(3):
        dots &= codes[np.maximum(last - step, 0)] == ord(".")
    return dots | ((lines.chars > 0) & (codes[last] == ord("…")))


def duplicates(buffer: TextBuffer, pieces: Spans) -> tuple[Ints, Ints]:
    """Return of each document the number and characters of pieces that it has said before."""
    keys = mix(buffer.hashes(pieces) + pieces.docs.astype(np.uint64) * DOC_BASE)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    again = order[1:][keys[1:] == keys[:-1]]
    docs = pieces.docs[again]
    return buffer.per_doc(docs), buffer.per_doc(docs, weights=pieces.chars[again])


def _num_at(buffer: TextBuffer, positions: Ints) -> Ints:
    return buffer.per_doc(buffer.docs_at(positions))
