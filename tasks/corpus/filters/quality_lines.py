"""C4's rules: they drop lines, citation marks and documents.

Source: Raffel et al. 2020 (JMLR 21(140), section 2.2), as FineWeb applies them: for each line, in
this order, a word too long, no terminal punctuation (optional), too few words, "lorem ipsum" (drops
the document), "javascript", a curly bracket (drops the document), a phrase of policies. Words of a
line are counted before citation marks are removed from it. White space around lines is removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.corpus.filters.quality_rules import (
    C4,
    Rule,
    Values,
    Verdicts,
    ends_in_ellipsis,
    stripped,
)
from tasks.corpus.filters.text_buffer import (
    PUNCTUATION,
    SENTENCE_ENDS,
    Flags,
    Ints,
    Spans,
    TextBuffer,
    is_any,
)

MAX_WORD_CHARS = 1000  # tensorflow/datasets, text/c4_utils.py
MIN_LINE_WORDS = 3  # C4, JMLR 21(140), section 2.2
TERMINAL_PUNCTUATION = ".?!\"'"  # the same; a line that ends in an ellipsis does not count
CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")  # tensorflow/datasets, text/c4_utils.py
LOREM_IPSUM, SCRIPT, CURLY_BRACKET = "lorem ipsum", "javascript", "{"  # C4, section 2.2
POLICIES = (  # tensorflow/datasets, text/c4_utils.py
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

LINE_REASONS = (
    "c4_blank",
    "c4_long_word",
    "c4_no_terminal_punctuation",
    "c4_few_words",
    "c4_javascript",
    "c4_policy",
)
DOCUMENT_REASONS = ("c4_lorem_ipsum", "c4_curly_bracket", "c4_no_lines")
_KEPT = -1


@dataclass(frozen=True)
class LineEdits:
    """The documents after the line rules."""

    texts: list[str]  # the kept lines of each document, joined by newlines
    dropped_lines: Ints  # one row a document, one column a reason of ``LINE_REASONS``
    num_citations: Ints  # removed citation marks of each document


def edit_lines(buffer: TextBuffer, verdicts: Verdicts, *, terminal_punctuation: bool) -> LineEdits:
    """Return the documents with C4's line edits, and drop those that contain forbidden text."""
    lines = stripped(buffer, buffer.lines)
    citations = _citations(buffer)
    reasons = _line_reasons(buffer, lines, citations, terminal_punctuation)
    _drop_forbidden(buffer, reasons, verdicts)
    dropped = reasons != _KEPT
    counts = np.zeros((buffer.num_docs, len(LINE_REASONS)), np.int64)
    np.add.at(counts, (lines.docs[dropped], reasons[dropped]), 1)
    kept = lines.where(~dropped)
    for doc in np.flatnonzero(buffer.per_doc(kept.docs) == 0).tolist():
        verdicts.drop(doc, "c4_no_lines", _line_counts(counts[doc]))
    texts, num_citations = _rewritten(buffer, kept, citations)
    return LineEdits(texts, counts, num_citations)


def num_sentences(buffer: TextBuffer) -> Values:
    """Return the number of sentences of each document; none crosses the end of a line.

    A sentence begins with the line, and with the first word after its end mark that is not
    punctuation, as in spaCy's sentencizer.
    """
    words = buffer.words
    first, last = buffer.classes[words.starts], buffer.classes[words.ends - 1]
    is_sign = ((first & PUNCTUATION) != 0) & ((last & PUNCTUATION) != 0)
    plain, signs = np.flatnonzero(~is_sign), np.flatnonzero(is_sign & (words.chars == 1))
    ends = signs[is_any(buffer.codes[words.starts[signs]], SENTENCE_ENDS)]
    following = np.searchsorted(plain, ends)
    ends, following = ends[following < len(plain)], following[following < len(plain)]
    begins = plain[following]
    newlines = np.flatnonzero(buffer.codes == ord("\n"))
    same_line = np.searchsorted(newlines, words.starts[ends]) == np.searchsorted(
        newlines, words.starts[begins]
    )
    later = buffer.per_doc(words.docs[np.unique(begins[same_line])])
    inner = stripped(buffer, buffer.lines)
    return (later + buffer.per_doc(inner.docs[inner.chars > 0])).astype(np.float64)


SENTENCE_RULES = (Rule("c4_few_sentences", C4, num_sentences, below=5),)


def _line_reasons(
    buffer: TextBuffer, lines: Spans, citations: Spans, terminal_punctuation: bool
) -> Ints:
    chunks = buffer.chunks
    num_words = np.searchsorted(chunks.starts, lines.ends) - np.searchsorted(
        chunks.starts, lines.starts
    )
    is_blank = lines.chars == 0
    unfinished = np.zeros(len(is_blank), dtype=bool)
    if terminal_punctuation:
        unfinished = ~_is_finished(buffer, _before_citations(lines, citations))
    conditions = (
        is_blank,
        _has(buffer, chunks.starts[chunks.chars > MAX_WORD_CHARS]),
        unfinished,
        num_words < MIN_LINE_WORDS,
        _has(buffer, buffer.find(SCRIPT, lower=True)),
        _has(buffer, np.concatenate([buffer.find(phrase, lower=True) for phrase in POLICIES])),
    )
    return np.select(conditions, range(len(LINE_REASONS)), _KEPT)


def _drop_forbidden(buffer: TextBuffer, reasons: Ints, verdicts: Verdicts) -> None:
    """Drop the documents that contain a forbidden text in a line that is checked."""
    script, policy = LINE_REASONS.index("c4_javascript"), LINE_REASONS.index("c4_policy")
    later = np.isin(reasons, (_KEPT, policy))
    lorem = _has(buffer, buffer.find(LOREM_IPSUM, lower=True)) & (later | (reasons == script))
    curly = _has(buffer, buffer.find(CURLY_BRACKET)) & later
    found = np.flatnonzero(lorem | curly)
    for line in found.tolist():
        doc, number = int(buffer.lines.docs[line]), line
        number -= int(np.searchsorted(buffer.lines.docs, doc))
        reason = "c4_lorem_ipsum" if lorem[line] else "c4_curly_bracket"
        verdicts.drop(doc, reason, f"line {number + 1}")


def _has(buffer: TextBuffer, positions: Ints) -> Flags:
    """Return which lines contain one of the positions."""
    found = np.zeros(len(buffer.lines.starts), dtype=bool)
    found[np.searchsorted(buffer.lines.starts, positions, side="right") - 1] = True
    return found


def _citations(buffer: TextBuffer) -> Spans:
    found = [match.span() for match in CITATION.finditer(buffer.joined)]
    edges = np.array(found, dtype=np.int64).reshape(-1, 2)
    return Spans(edges[:, 0], edges[:, 1], buffer.docs_at(edges[:, 0]))


def _before_citations(lines: Spans, citations: Spans) -> Spans:
    """Return lines that end before the citation marks at their end."""
    ends = lines.ends.copy()
    while len(citations.ends):
        place = np.minimum(np.searchsorted(citations.ends, ends), len(citations.ends) - 1)
        is_cited = (citations.ends[place] == ends) & (citations.starts[place] >= lines.starts)
        if not is_cited.any():
            break
        ends = np.where(is_cited, citations.starts[place], ends)
    return Spans(lines.starts, ends, lines.docs)


def _is_finished(buffer: TextBuffer, lines: Spans) -> Flags:
    last = buffer.codes[np.maximum(lines.ends - 1, 0)]
    return (lines.chars > 0) & is_any(last, TERMINAL_PUNCTUATION) & ~ends_in_ellipsis(buffer, lines)


def _rewritten(buffer: TextBuffer, kept: Spans, citations: Spans) -> tuple[list[str], Ints]:
    """Return the kept lines of each document as text, and how many citation marks they lost."""
    steps = np.zeros(len(buffer.codes) + 1, np.int8)
    steps[kept.starts] += 1
    steps[kept.ends + 1] -= 1  # with the white space after the line, which becomes a newline
    is_kept = np.cumsum(steps[:-1], dtype=np.int8) > 0
    removed = citations.where(is_kept[citations.starts])
    for start, end in zip(removed.starts.tolist(), removed.ends.tolist(), strict=True):
        is_kept[start:end] = False
    codes = buffer.codes.copy()
    codes[kept.ends] = ord("\n")
    text = codes[is_kept].tobytes().decode("utf-32-le")
    totals = np.concatenate([[0], np.cumsum(is_kept)])
    edges = zip(
        totals[buffer.doc_starts].tolist(), totals[buffer.doc_ends + 1].tolist(), strict=True
    )
    return [text[start:end].strip() for start, end in edges], buffer.per_doc(removed.docs)


def _line_counts(counts: Sequence[int]) -> str:
    found = zip(LINE_REASONS, counts, strict=True)
    return "; ".join(f"{count} {reason}" for reason, count in found if count) or "0 lines"
