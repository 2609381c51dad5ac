"""Gopher's repetition rules: lines, paragraphs and word n-grams that a document says again.

Source: table A1 of arXiv 2112.11446, counted as datatrove's GopherRepetitionFilter does: every
occurrence after the first is a duplicate, the most frequent n-gram counts all its occurrences, and
duplicate n-grams are found from left to right without overlap. Pieces are compared by hashes.

Two sorts of a batch decide nearly every document: the counts of word pairs bound what the most
frequent three and four words can reach, and the words that repeated 5-grams cover bound the
duplicates of all longer ones. Only documents that these bounds cannot clear are counted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.corpus.filters.quality_buffer import Ints, Spans, TextBuffer
from tasks.corpus.filters.quality_characters import Flags
from tasks.corpus.filters.quality_rules import GOPHER_REPETITION, Rule, Values, share
from tasks.corpus.span_hashes import Hashes, mix

TOP_N_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}  # arXiv 2112.11446, table A1
DUPLICATE_N_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}  # the same table

RULES = (
    Rule("gopher_duplicate_paragraphs", GOPHER_REPETITION, above=0.30),
    Rule("gopher_duplicate_paragraph_text", GOPHER_REPETITION, above=0.20),
    Rule("gopher_duplicate_lines", GOPHER_REPETITION, above=0.30),
    Rule("gopher_duplicate_line_text", GOPHER_REPETITION, above=0.20),
    *(Rule(f"gopher_top_{n}_gram", GOPHER_REPETITION, above=f) for n, f in TOP_N_GRAMS.items()),
    *(
        Rule(f"gopher_duplicate_{n}_grams", GOPHER_REPETITION, above=f)
        for n, f in DUPLICATE_N_GRAMS.items()
    ),
)
# Four words are two pairs and a blank: they cannot hold more characters than twice the best pair
# and one blank for each occurrence, and a pair has three characters at least.
TOP_BOUND = 2 + 1 / 3
_N_GRAM_BASE = np.uint64(0x8CB92BA72F3D8DD7)
_DOC_BASE = np.uint64(0xA0761D6478BD642F)


def repetition(buffer: TextBuffer) -> dict[str, Values]:
    """Return the measure of every rule in ``RULES`` for each document."""
    text_chars = buffer.doc_chars
    found: dict[str, Values] = {}
    for name, pieces in (("paragraph", paragraphs(buffer)), ("line", filled_lines(buffer))):
        again, again_chars = duplicates(buffer, pieces)
        found[f"gopher_duplicate_{name}s"] = share(again, buffer.per_doc(pieces.docs))
        found[f"gopher_duplicate_{name}_text"] = share(again_chars, text_chars)
    words = WordRows.of(buffer)
    top, bound = words.top_chars(2)
    found["gopher_top_2_gram"] = share(top, text_chars)
    suspects = TOP_BOUND * bound > min(TOP_N_GRAMS.values()) * text_chars
    some = words.of_docs(suspects)
    for n in (3, 4):
        found[f"gopher_top_{n}_gram"] = share(some.top_chars(n)[0], text_chars)
    least = min(DUPLICATE_N_GRAMS.values())
    suspects = words.chars_in_repeats(min(DUPLICATE_N_GRAMS)) > least * text_chars
    for n in DUPLICATE_N_GRAMS:
        chars = words.duplicate_chars(n, suspects)
        found[f"gopher_duplicate_{n}_grams"] = share(chars, text_chars)
    return found


def filled_lines(buffer: TextBuffer) -> Spans:
    """Return the lines between newlines, and only newlines, without the empty ones."""
    ends = np.flatnonzero(buffer.codes == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    is_filled = ends > starts
    return Spans(starts[is_filled], ends[is_filled], buffer.docs_at(ends[is_filled]))


def paragraphs(buffer: TextBuffer) -> Spans:
    """Return the pieces between empty lines."""
    lines = filled_lines(buffer)
    begins = np.ones(len(lines.starts), dtype=bool)
    gaps = lines.starts[1:] - lines.ends[:-1]
    begins[1:] = (gaps > 1) | (lines.docs[1:] != lines.docs[:-1])
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(begins))[: len(firsts)] - 1
    return Spans(lines.starts[firsts], lines.ends[lasts], lines.docs[firsts])


def duplicates(buffer: TextBuffer, pieces: Spans) -> tuple[Ints, Ints]:
    """Return of each document the number and characters of pieces that it has said before."""
    keys = mix(buffer.hashes(pieces) + pieces.docs.astype(np.uint64) * _DOC_BASE)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    again = order[1:][keys[1:] == keys[:-1]]
    docs = pieces.docs[again]
    return buffer.per_doc(docs), buffer.per_doc(docs, weights=pieces.chars[again])


@dataclass(frozen=True)
class Groups:
    """Equal n-grams: their positions in one row, and where each group begins in it."""

    positions: Ints
    starts: Ints

    @property
    def counts(self) -> Ints:
        """Return how many n-grams each group has."""
        return np.diff(np.append(self.starts, len(self.positions)))


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
        """Return of each document the characters that its most frequent n-gram takes.

        Of equally frequent ones the first counts.

        Returns:
            those characters, and the most that any of its n-grams takes.
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
        covered = np.flatnonzero(np.cumsum(steps[:-1]) > 0)
        totals = np.bincount(
            self.docs[covered], weights=self.chars[covered], minlength=self.num_docs
        )
        return totals.astype(np.int64)

    def duplicate_chars(self, n: int, selected: Flags) -> Ints:
        """Return the characters of duplicate n-grams, found from left to right, not overlapping."""
        rows = self.of_docs(selected)
        totals = np.zeros(self.num_docs, np.int64)
        groups = rows._groups(n)
        is_repeated = groups.counts > 1
        group = np.repeat(np.arange(len(groups.starts)), groups.counts)
        mask = np.repeat(is_repeated, groups.counts)
        positions, group = groups.positions[mask], group[mask]
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
        keys += docs.astype(np.uint64) * _DOC_BASE
        is_whole = docs == self.docs[n - 1 :][:num_grams]
        bits = np.uint64(max(1, len(self.docs).bit_length()))
        keys = (mix(keys) >> bits) << bits
        keys |= np.arange(num_grams, dtype=np.uint64)
        keys = np.sort(keys[is_whole])
        positions = (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        hashes = keys >> bits
        begins = np.ones(len(keys), dtype=bool)
        begins[1:] = hashes[1:] != hashes[:-1]
        return Groups(positions, np.flatnonzero(begins))
