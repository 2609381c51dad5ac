"""Gopher's quality rules and FineWeb's own: shares of words and lines of a document.

The limits on the number of words are the filter's own settings and not among these rules.
"""

from __future__ import annotations

import numpy as np

from tasks.corpus.filters.quality_buffer import Ints, Spans, TextBuffer, text_hash
from tasks.corpus.filters.quality_characters import LETTER, SENTENCE_ENDS, WORD, Flags, is_any
from tasks.corpus.filters.quality_repetition import duplicates, filled_lines
from tasks.corpus.filters.quality_rules import (
    FINEWEB,
    FINEWEB_CODE,
    GOPHER_QUALITY,
    Rule,
    Values,
    share,
)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # arXiv 2112.11446, A1.1
BULLETS = "•-"
SHORT_LINE_CHARS = 30  # arXiv 2406.17557, section 3.6

GOPHER_RULES = (
    Rule("gopher_word_length", GOPHER_QUALITY, above=10, below=3),
    Rule("gopher_hashes", GOPHER_QUALITY, above=0.1),
    Rule("gopher_ellipses", GOPHER_QUALITY, above=0.1),
    Rule("gopher_bullet_lines", GOPHER_QUALITY, above=0.9),
    Rule("gopher_ellipsis_lines", GOPHER_QUALITY, above=0.3),
    Rule("gopher_alphabetic_words", GOPHER_QUALITY, below=0.8),
    Rule("gopher_stop_words", GOPHER_QUALITY, below=2),
)
FINEWEB_RULES = (
    Rule("fineweb_line_punctuation", FINEWEB, below=0.12),
    Rule("fineweb_short_lines", FINEWEB, above=0.67),
    Rule("fineweb_duplicate_lines", FINEWEB_CODE, above=0.01),  # the paper says 0.1
    Rule("fineweb_newlines", FINEWEB_CODE, above=0.3),
)


def gopher_quality(buffer: TextBuffer) -> dict[str, Values]:
    """Return the measure of every rule in ``GOPHER_RULES`` for each document."""
    words = buffer.words
    num_words = buffer.per_doc(words.docs)
    is_alphabetic = buffer.counts_within(words, LETTER) > 0
    is_spoken = is_alphabetic | (buffer.counts_within(words, WORD) > 0)  # not signs alone
    spoken = words.where(is_spoken)
    num_spoken = buffer.per_doc(spoken.docs)
    length = share(buffer.per_doc(spoken.docs, weights=spoken.chars), num_spoken)
    lines = stripped(buffer, buffer.lines)
    num_lines = buffer.per_doc(lines.docs)
    num_hashes = buffer.per_doc(buffer.docs_at(np.flatnonzero(buffer.codes == ord("#"))))
    return {
        "gopher_word_length": length,
        "gopher_hashes": share(num_hashes, num_words),
        "gopher_ellipses": share(_num_ellipses(buffer), num_words),
        "gopher_bullet_lines": share(
            buffer.per_doc(lines.docs[_is_bullet(buffer, lines)]), num_lines
        ),
        "gopher_ellipsis_lines": share(
            buffer.per_doc(lines.docs[ends_in_ellipsis(buffer, lines)]), num_lines
        ),
        "gopher_alphabetic_words": share(buffer.per_doc(words.docs[is_alphabetic]), num_words),
        "gopher_stop_words": _num_stop_words(buffer).astype(np.float64),
    }


def fineweb(buffer: TextBuffer) -> dict[str, Values]:
    """Return the measure of every rule in ``FINEWEB_RULES`` for each document."""
    lines = filled_lines(buffer)
    inner = stripped(buffer, lines)
    lines = lines.where(inner.chars > 0)
    num_lines = buffer.per_doc(lines.docs)
    ends_sentence = is_any(buffer.codes[lines.ends - 1], SENTENCE_ENDS)
    _, again_chars = duplicates(buffer, lines)
    newlines = np.flatnonzero(buffer.codes == ord("\n"))
    num_newlines = buffer.per_doc(buffer.docs_at(newlines)) - 1  # one ends each document here
    return {
        "fineweb_line_punctuation": share(buffer.per_doc(lines.docs[ends_sentence]), num_lines),
        "fineweb_short_lines": share(
            buffer.per_doc(lines.docs[lines.chars <= SHORT_LINE_CHARS]), num_lines
        ),
        "fineweb_duplicate_lines": share(again_chars, buffer.doc_chars - num_newlines),
        "fineweb_newlines": share(num_newlines, buffer.per_doc(buffer.words.docs)),
    }


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


def _is_bullet(buffer: TextBuffer, lines: Spans) -> Flags:
    return (lines.chars > 0) & is_any(buffer.codes[lines.starts], BULLETS)


def _num_ellipses(buffer: TextBuffer) -> Ints:
    positions = np.concatenate([buffer.find("..."), buffer.find("…")])
    return buffer.per_doc(buffer.docs_at(positions))


def _num_stop_words(buffer: TextBuffer) -> Ints:
    words = buffer.words
    is_short = words.chars <= max(map(len, STOP_WORDS))
    hashes, docs = buffer.word_hashes[is_short], words.docs[is_short]
    found = np.zeros(buffer.num_docs, np.int64)
    for word in STOP_WORDS:
        found += buffer.per_doc(docs[hashes == text_hash(word)]) > 0
    return found
