"""A batch of documents as one array of code points, with lines and words as index arrays.

The quality rules count words, lines and repeats with a few array operations for all documents
together. A newline ends each document in the buffer, so no word or line reaches into the next.

Words follow spaCy's English tokenizer, with which the published pipelines count: white space
separates; then punctuation stands alone, except inside a word where it belongs to it. Unlike that
tokenizer it knows no addresses, emoticons, units after digits or contractions without apostrophe.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.shingles import Hashes, prefix_sums, span_hashes

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.uint32]
Classes = NDArray[np.uint8]

SPACE, LINE_END, LETTER, DIGIT, WORD, PUNCTUATION, SIGN, UPPER = (1 << bit for bit in range(8))
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what str.splitlines() splits at
SENTENCE_ENDS = ".?!‼‽⁇⁈⁉。．！？｡﹒﹖﹗։؟۔।॥"  # Unicode Sentence_Terminal, of common scripts
_HIGHEST = 0x10000  # one class for all characters above the Basic Multilingual Plane: signs

DASHES = "-–—~"  # split words between letters
RELATIONS = ":<>=/"  # separate a letter from what is before them
BOUND = "-/@\\^~|+"  # belong to the word they begin or end
APOSTROPHES = "'’"
ENDINGS = ("s", "re", "ve", "ll", "d", "m")  # words of their own after an apostrophe
ABBREVIATIONS = (  # keep their full stop
    "Mr Mrs Ms Messrs Dr Prof Rev Gen Sen Rep Gov Adm St Mt Jr Co Inc Ltd Corp Bros vs "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec"
)


@dataclass(frozen=True)
class Spans:
    """Pieces of a buffer, in order: where each begins and ends (exclusive), its document."""

    starts: Ints
    ends: Ints
    docs: Ints

    @property
    def chars(self) -> Ints:
        """Return the length of each piece."""
        return self.ends - self.starts

    def where(self, mask: Flags) -> Spans:
        """Return the pieces that a mask selects."""
        return Spans(self.starts[mask], self.ends[mask], self.docs[mask])


class TextBuffer:
    """The characters of a batch of documents, whose texts are valid Unicode."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_docs = len(texts)
        self.joined = "".join(text + "\n" for text in texts)
        self.codes = np.frombuffer(self.joined.encode("utf-32-le"), dtype=np.uint32)
        self.doc_chars = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self.doc_ends = np.cumsum(self.doc_chars + 1) - 1
        self.doc_starts = self.doc_ends - self.doc_chars
        self.classes = classes_of(self.codes)

    def per_doc(self, docs: Ints, weights: NDArray[np.number] | None = None) -> Ints:
        """Return how many of ``docs`` there are of each document, or the sum of their weights."""
        totals = np.bincount(docs, weights=weights, minlength=self.num_docs)
        return totals.astype(np.int64)

    def docs_at(self, positions: Ints) -> Ints:
        """Return the documents that characters belong to; positions in any order."""
        return np.searchsorted(self.doc_ends, positions)

    def _docs_of(self, starts: Ints) -> Ints:
        """Return the documents that pieces in order belong to."""
        before = np.searchsorted(starts, self.doc_ends)
        return np.repeat(np.arange(self.num_docs), np.diff(before, prepend=0))

    def find(self, phrase: str, *, lower: bool = False) -> Ints:
        """Return where a phrase begins; ``lower`` looks in the text in lower case."""
        text, found = self._lowered if lower else self.joined, []
        position = text.find(phrase)
        while position >= 0:
            found.append(position)
            position = text.find(phrase, position + len(phrase))
        return np.array(found, dtype=np.int64)

    @cached_property
    def _lowered(self) -> str:
        # The one character that becomes two in lower case would move all positions after it.
        return self.joined.replace("\u0130", "I").lower()

    @cached_property
    def lines(self) -> Spans:
        """Return the lines, empty ones too, as ``str.splitlines`` cuts them."""
        ends = np.flatnonzero(self.classes & LINE_END)
        is_half = (self.codes[ends] == ord("\r")) & (self.codes[_next(ends, self)] == ord("\n"))
        docs = self.docs_at(ends)
        is_half &= ends + 1 != self.doc_ends[docs]
        ends, docs = ends[~is_half], docs[~is_half]
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        is_last_empty = (starts == ends) & (ends == self.doc_ends[docs])
        after_return = self.codes[np.maximum(ends - 1, 0)] == ord("\r")
        ends = ends - ((self.codes[ends] == ord("\n")) & after_return & (ends > starts))
        return Spans(starts, ends, docs).where(~is_last_empty)

    @cached_property
    def chunks(self) -> Spans:
        """Return what stands between white space."""
        is_text = (self.classes & SPACE) == 0
        edges = np.flatnonzero(is_text[1:] != is_text[:-1]) + 1
        if len(is_text) and is_text[0]:
            edges = np.concatenate([[0], edges])
        starts, ends = edges[0::2], edges[1::2]  # the buffer ends in white space
        return Spans(starts, ends, self._docs_of(starts))

    @cached_property
    def words(self) -> Spans:
        """Return the words: pieces of chunks."""
        begins = np.zeros(len(self.codes) + 1, dtype=bool)
        begins[self.chunks.starts] = True
        begins[self.chunks.ends] = True
        _cut_at_punctuation(self, begins)
        edges = np.flatnonzero(begins)
        is_word = (self.classes[edges] & SPACE) == 0
        starts = edges[is_word]
        ends = edges[1:][is_word[:-1]]  # the last edge is white space
        return Spans(starts, ends, self._docs_of(starts))

    @cached_property
    def word_hashes(self) -> Hashes:
        """Return the hash of each word."""
        return self.hashes(self.words)

    def counts_within(self, spans: Spans, flag: int) -> Ints:
        """Return how many characters of a class each span has."""
        totals = np.zeros(len(self.codes) + 1, dtype=np.int32)
        np.cumsum((self.classes & flag) != 0, out=totals[1:])
        return (totals[spans.ends] - totals[spans.starts]).astype(np.int64)

    @cached_property
    def _prefix_sums(self) -> Hashes:
        return prefix_sums(self.codes)

    def hashes(self, spans: Spans) -> Hashes:
        """Return 64-bit hashes of pieces: equal text, equal hash, in every document and batch."""
        return span_hashes(self._prefix_sums, spans.starts, spans.ends)


@lru_cache(maxsize=100)
def text_hash(text: str) -> np.uint64:
    """Return the hash that ``TextBuffer.hashes`` gives a piece of this text."""
    buffer = TextBuffer([text])
    return buffer.hashes(Spans(buffer.doc_starts, buffer.doc_ends, np.zeros(1, np.int64)))[0]


def _next(positions: Ints, buffer: TextBuffer, step: int = 1) -> Ints:
    return np.minimum(positions + step, max(len(buffer.codes) - 1, 0))


def _cut_at_punctuation(buffer: TextBuffer, begins: Flags) -> None:
    """Mark where words begin because of punctuation."""
    at = np.flatnonzero(buffer.classes & (PUNCTUATION | SIGN))
    if not len(at):
        return
    codes, classes = buffer.codes, buffer.classes
    code = codes[at]
    before = np.where(at > 0, classes[at - 1], SPACE)
    after = classes[at + 1]  # a newline ends each text
    inside = ((before & WORD) != 0) & ((after & WORD) != 0)
    cut = _at_an_edge(buffer, at, ~is_any(code, BOUND))
    cut |= inside & _splits_word(code, before, after)
    cut |= ((classes[at] & SIGN) != 0) | (code == ord("…"))
    stops = code == ord(".")
    follows_stop = stops & (codes[at - 1] == ord(".")) & (at > 0)
    precedes_stop = stops & (codes[at + 1] == ord("."))
    cut |= follows_stop | precedes_stop
    stops &= cut & ~inside & ~follows_stop & ((before & LETTER) != 0)
    stops[stops] = _ends_abbreviation(buffer, at[stops])
    begins[at[cut & ~follows_stop & ~stops]] = True
    begins[at[cut & ~precedes_stop] + 1] = True
    _cut_dashes(buffer, at[(code == ord("-")) & ((before & LETTER) != 0)], begins)
    _cut_contractions(buffer, at[is_any(code, APOSTROPHES) & inside], begins)


def _at_an_edge(buffer: TextBuffer, at: Ints, strippable: Flags) -> Flags:
    """Return which punctuation belongs to a run of it that begins or ends a chunk."""
    found = np.zeros(len(at), dtype=bool)
    signs = at[strippable]
    if not len(signs):
        return found
    begins_run = np.concatenate([[True], np.diff(signs) > 1])
    run = np.cumsum(begins_run) - 1
    firsts = signs[begins_run]
    lasts = signs[np.append(begins_run[1:], True)]
    classes = buffer.classes
    at_edge = ((classes[lasts + 1] & SPACE) != 0) | (firsts == 0)
    at_edge |= (classes[firsts - 1] & SPACE) != 0
    found[strippable] = at_edge[run]
    return found


def _splits_word(code: Codes, before: Classes, after: Classes) -> Flags:
    """Return which punctuation between two characters of words separates them."""
    to_letter = (after & LETTER) != 0
    letters = ((before & LETTER) != 0) & to_letter
    digits = ((before & DIGIT) != 0) & ((after & DIGIT) != 0)
    new_sentence = letters & ((before & UPPER) == 0) & ((after & UPPER) != 0)
    return (
        (is_any(code, DASHES + ",") & letters)
        | (is_any(code, RELATIONS + "-") & to_letter)
        | (is_any(code, "-+*^") & digits)
        | ((code == ord(".")) & new_sentence)
    )


def _cut_dashes(buffer: TextBuffer, at: Ints, begins: Flags) -> None:
    """Mark two or three hyphens between letters as a word."""
    codes, classes = buffer.codes, buffer.classes
    for count in (2, 3):
        after = _next(at, buffer, count)
        fits = (classes[after] & LETTER) != 0
        for offset in range(1, count):
            fits &= codes[_next(at, buffer, offset)] == ord("-")
        begins[at[fits]] = True
        begins[after[fits]] = True


def _ends_abbreviation(buffer: TextBuffer, stops: Ints) -> Flags:
    """Return which full stops belong to the letters before: initials and well-known short forms."""
    length = np.zeros(len(stops), dtype=np.int64)
    reaching = np.ones(len(stops), dtype=bool)
    for step in range(1, max(map(len, ABBREVIATIONS.split())) + 2):
        position = stops - step
        reaching &= (position >= 0) & ((buffer.classes[position] & WORD) != 0)
        length += reaching
    spans = Spans(stops - length, stops, stops)
    return (length == 1) | np.isin(buffer.hashes(spans), _abbreviation_hashes())


def _cut_contractions(buffer: TextBuffer, at: Ints, begins: Flags) -> None:
    """Mark ``'s``, ``'re`` and the like as words, and ``n't``."""
    if not len(at):
        return
    codes, classes = buffer.codes, buffer.classes
    for ending in ENDINGS:
        last = _next(at, buffer, len(ending))
        fits = (classes[_next(last, buffer)] & WORD) == 0
        for offset, letter in enumerate(ending, start=1):
            fits &= (codes[_next(at, buffer, offset)] | 0x20) == ord(letter)
        begins[at[fits]] = True
    is_not = ((codes[at - 1] | 0x20) == ord("n")) & ((codes[at + 1] | 0x20) == ord("t"))
    is_not &= (classes[_next(at, buffer, 2)] & WORD) == 0
    is_not &= (classes[np.maximum(at - 2, 0)] & WORD) != 0
    begins[at[is_not] - 1] = True


@lru_cache(maxsize=1)
def _abbreviation_hashes() -> Hashes:
    return np.array([text_hash(word) for word in ABBREVIATIONS.split()], dtype=np.uint64)


# --- classes of characters ----------------------------------------------------------------------


def classes_of(codes: Codes) -> Classes:
    """Return the class bits of each code point."""
    return np.take(_class_table(), codes, mode="clip")


def is_any(codes: Codes, characters: str) -> Flags:
    """Return which code points are among a few characters."""
    found = np.zeros(len(codes), dtype=bool)
    for character in characters:
        found |= codes == ord(character)
    return found


@lru_cache(maxsize=1)
def _class_table() -> Classes:
    table = np.fromiter((_class_of(chr(code)) for code in range(_HIGHEST)), np.uint8, _HIGHEST)
    return np.append(table, np.uint8(SIGN))


def _class_of(character: str) -> int:
    if character.isspace():
        return SPACE | (LINE_END if character in LINE_ENDS else 0)
    category = unicodedata.category(character)
    if category[0] == "L":
        return WORD | LETTER | (UPPER if category in ("Lu", "Lt") else 0)
    if category[0] == "N":
        return WORD | DIGIT
    if category[0] == "P":
        return PUNCTUATION
    if category[0] == "S":
        return SIGN if category == "So" else PUNCTUATION
    return WORD  # marks, and what cannot be seen, belong to the word around them
