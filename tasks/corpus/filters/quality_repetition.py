"""Gopher's repetition rules: duplicate lines, paragraphs and word n-grams of a document.

Source: table A1 of arXiv 2112.11446, counted as datatrove's GopherRepetitionFilter does: every
occurrence after the first is a duplicate, the most frequent n-gram counts all its occurrences, and
duplicate n-grams are found from left to right without overlap. Pieces are compared by hashes.

Two sorts of a batch decide nearly every document: the counts of word pairs bound what the most
frequent three and four words can reach, and the words that repeated 5-grams cover bound the
duplicates of all longer ones. Only documents that these bounds cannot clear are counted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from tasks.corpus.filters.quality_rules import (
    DOC_BASE,
    GOPHER_REPETITION,
    Rule,
    Values,
    duplicates,
    filled_lines,
    share,
)
from tasks.corpus.filters.text_buffer import Flags, Ints, Spans, TextBuffer
from tasks.corpus.shingles import Hashes, mix

TOP_N_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}  # arXiv 2112.11446, table A1
DUPLICATE_N_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # the same table
# Four words are two pairs and a blank: they cannot have more characters than twice the best pair
# and one blank for each occurrence, and a pair has three characters at least.
TOP_BOUND = 2 + 1 / 3
_N_GRAM_BASE = np.uint64(0x8CB92BA72F3D8DD7)


class Repetition:
    """Measures of Gopher's repetition rules."""

    def __init__(self, buffer: TextBuffer) -> None:
        self._buffer = buffer
        self._text_chars = buffer.doc_chars
        self._words = WordRows.of(buffer)

    @cached_property
    def paragraphs(self) -> tuple[Values, Values]:
        """The shares of paragraphs, and of characters in paragraphs, that occurred before."""
        return self._duplicate_shares(paragraphs(self._buffer))

    @cached_property
    def lines(self) -> tuple[Values, Values]:
        """The shares of lines, and of characters in lines, that occurred before."""
        return self._duplicate_shares(filled_lines(self._buffer))

    def top_gram(self, n: int) -> Values:
        """Return the share of characters in the most frequent n-gram; 0 where bounds clear it."""
        top = self._top_pairs[0] if n == 2 else self._words_to_count.top_chars(n)[0]
        return share(top, self._text_chars)

    def duplicate_grams(self, n: int) -> Values:
        """Return the share of characters in duplicate n-grams; 0 where bounds clear it."""
        return share(self._words.duplicate_chars(n, self._has_repeats), self._text_chars)

    def _duplicate_shares(self, pieces: Spans) -> tuple[Values, Values]:
        num, num_chars = duplicates(self._buffer, pieces)
        return share(num, self._buffer.per_doc(pieces.docs)), share(num_chars, self._text_chars)

    @cached_property
    def _top_pairs(self) -> tuple[Ints, Ints]:
        return self._words.top_chars(2)

    @cached_property
    def _words_to_count(self) -> WordRows:
        """The words of documents that the counts of word pairs cannot clear."""
        most = min(TOP_N_GRAMS.values()) * self._text_chars
        return self._words.of_docs(TOP_BOUND * self._top_pairs[1] > most)

    @cached_property
    def _has_repeats(self) -> Flags:
        """The documents that the words in repeated n-grams cannot clear."""
        most = min(DUPLICATE_N_GRAMS.values()) * self._text_chars
        return self._words.chars_in_repeats(min(DUPLICATE_N_GRAMS)) > most


_rule = partial(Rule[Repetition], source=GOPHER_REPETITION)
REPETITION_RULES: tuple[Rule[Repetition], ...] = (
    _rule("gopher_duplicate_paragraphs", measure=lambda of: of.paragraphs[0], above=0.30),
    _rule("gopher_duplicate_paragraph_text", measure=lambda of: of.paragraphs[1], above=0.20),
    _rule("gopher_duplicate_lines", measure=lambda of: of.lines[0], above=0.30),
    _rule("gopher_duplicate_line_text", measure=lambda of: of.lines[1], above=0.20),
    *(
        _rule(f"gopher_top_{n}_gram", measure=partial(Repetition.top_gram, n=n), above=above)
        for n, above in TOP_N_GRAMS.items()
    ),
    *(
        _rule(
            f"gopher_duplicate_{n}_grams",
            measure=partial(Repetition.duplicate_grams, n=n),
            above=above,
        )
        for n, above in DUPLICATE_N_GRAMS.items()
    ),
)


def paragraphs(buffer: TextBuffer) -> Spans:
    """Return the pieces between empty lines."""
    lines = filled_lines(buffer)
    begins = np.ones(len(lines.starts), dtype=bool)
    gaps = lines.starts[1:] - lines.ends[:-1]
    begins[1:] = (gaps > 1) | (lines.docs[1:] != lines.docs[:-1])
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(begins))[: len(firsts)] - 1
    return Spans(lines.starts[firsts], lines.ends[lasts], lines.docs[firsts])


@dataclass(frozen=True)
class Groups:
    """Equal n-grams: their positions in one row, where each group begins in it, and its size."""

    positions: Ints
    starts: Ints
    counts: Ints


@dataclass(frozen=True)
class WordRows:
    """The words of a batch: hash, characters and document of each."""

    hashes: Hashes
    chars: Ints
    docs: Ints
    num_docs: int

    @staticmethod
    def of(buffer: TextBuffer) -> WordRows:
        """Return the words of a buffer."""
        words = buffer.words
        return WordRows(buffer.word_hashes, words.chars, words.docs, buffer.num_docs)

    def of_docs(self, selected: Flags) -> WordRows:
        """Return the words of some documents only."""
        mask = selected[self.docs]
        return WordRows(self.hashes[mask], self.chars[mask], self.docs[mask], self.num_docs)

    def top_chars(self, n: int) -> tuple[Ints, Ints]:
        """Return of each document the characters of its most frequent n-gram, and the most of any.

        Of equally frequent ones the first counts.
        """
        top, bound = np.zeros(self.num_docs, np.int64), np.zeros(self.num_docs, np.int64)
        groups = self._groups(n)
        if not len(groups.positions):
            return top, bound
        first, counts = groups.positions[groups.starts], groups.counts
        docs = self.docs[first]
        chars = counts * (self._window_chars(n)[first] + n - 1)
        np.maximum.at(bound, docs, chars)
        place = np.int64(1) << np.int64(len(self.docs).bit_length())
        ranks = counts * place + (place - 1 - first)
        best = np.zeros(self.num_docs, np.int64)
        np.maximum.at(best, docs, ranks)
        is_best = ranks == best[docs]
        top[docs[is_best]] = chars[is_best]
        return top, bound

    def chars_in_repeats(self, n: int) -> Ints:
        """Return of each document the characters of words inside n-grams seen before."""
        groups = self._groups(n)
        is_first = np.zeros(len(groups.positions), dtype=bool)
        is_first[groups.starts] = True
        again = groups.positions[~is_first]
        steps = np.zeros(len(self.docs) + 1, np.int32)
        np.add.at(steps, again, 1)
        np.add.at(steps, again + n, -1)
        covered = np.cumsum(steps[:-1]) > 0
        docs, chars = self.docs[covered], self.chars[covered]
        return np.bincount(docs, weights=chars, minlength=self.num_docs).astype(np.int64)

    def duplicate_chars(self, n: int, selected: Flags) -> Ints:
        """Return the characters of duplicate n-grams, found from left to right, not overlapping."""
        rows = self.of_docs(selected)
        totals = np.zeros(self.num_docs, np.int64)
        groups = rows._groups(n)
        group = np.repeat(np.arange(len(groups.starts)), groups.counts)
        is_repeated = groups.counts[group] > 1
        positions, group = groups.positions[is_repeated], group[is_repeated]
        order = np.argsort(positions)
        chars, seen, resume = rows._window_chars(n), set[int](), 0
        for position, key in zip(positions[order].tolist(), group[order].tolist(), strict=True):
            if position < resume:
                continue
            if key in seen:
                totals[rows.docs[position]] += chars[position]
                resume = position + n
            else:
                seen.add(key)
        return totals

    def _window_chars(self, n: int) -> Ints:
        totals = np.concatenate([[0], np.cumsum(self.chars)])
        return totals[n:] - totals[:-n]

    def _groups(self, n: int) -> Groups:
        """Group the n-grams of each document: sorting by hash and position brings equals together.

        Hash and position share 64 bits, so that values alone are sorted, which is several times
        faster than an argsort. Of a million words 44 bits of hash are left.
        """
        num_grams = max(0, len(self.docs) - n + 1)
        keys = np.zeros(num_grams, np.uint64)
        for offset in range(n):
            keys *= _N_GRAM_BASE
            keys += self.hashes[offset : offset + num_grams]
        docs = self.docs[:num_grams]
        keys += docs.astype(np.uint64) * DOC_BASE
        is_whole = docs == self.docs[n - 1 :][:num_grams]
        bits = np.uint64(max(1, len(self.docs).bit_length()))
        keys = (mix(keys) >> bits) << bits
        keys |= np.arange(num_grams, dtype=np.uint64)
        keys = np.sort(keys[is_whole])
        positions = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        hashes = keys >> bits
        begins = np.ones(len(keys), dtype=bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        starts = np.flatnonzero(begins)
        return Groups(positions, starts, np.diff(starts, append=len(positions)))
