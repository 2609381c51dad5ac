"""Words and word n-grams (shingles) of documents as 64-bit hashes.

A word is what ``re.findall(r"\\w+", text.lower())`` returns; a shingle is a window of ``size``
words, or all words of a document that has fewer. MinHash, the exact Jaccard index and
decontamination all read texts through this module, so their words are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from unicodedata import unidata_version

import numpy as np
import numpy.typing as npt

from tasks.corpus.span_hashes import Hashes, mix, prefix_sums, span_hashes

Offsets = npt.NDArray[np.int64]

VERSION = 1  # raise it when a hash would change
ALGORITHM = f"words-{VERSION}-unicode-{unidata_version}"  # belongs in the cache keys of users
BATCH_CHARS = 2**17  # the arrays of one batch stay in the processor's cache
WORD_STEP = 0xD6E8FEB86659FD93  # odd; joins the hashes of a window's words
NUM_CODES = 0x110000


@dataclass(frozen=True)
class Ragged:
    """One run of hashes per document: run i is ``hashes[offsets[i]:offsets[i + 1]]``."""

    hashes: Hashes
    offsets: Offsets

    @property
    def lengths(self) -> Offsets:
        """Number of hashes of each document."""
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> Hashes:
        return self.hashes[self.offsets[index] : self.offsets[index + 1]]


def batches(texts: Iterable[str], *, max_chars: int = BATCH_CHARS) -> Iterator[list[str]]:
    """Yield the texts in order, each batch one text or at most so many characters."""
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        if batch and num_chars + len(text) > max_chars:
            yield batch
            batch, num_chars = [], 0
        batch.append(text)
        num_chars += len(text)
    if batch:
        yield batch


def word_hashes(texts: Sequence[str]) -> Ragged:
    """Return the hash of every word of every text.

    Example:
        >>> words = word_hashes(["To be, or not", "TO"])
        >>> words.lengths.tolist(), bool(words[0][0] == words[1][0])
        ([4, 1], True)
    """
    lowered = [text.lower() for text in texts]
    codes = np.frombuffer(
        "\n".join([*lowered, ""]).encode("utf-32-le", "surrogatepass"), dtype=np.uint32
    )
    edges = np.flatnonzero(np.diff(_word_codes()[codes].view(np.int8), prepend=np.int8(0)))
    starts, ends = edges[::2], edges[1::2]  # every text ends with a line feed, so each word ends
    text_ends = np.cumsum([len(text) + 1 for text in lowered])
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    offsets[1:] = np.searchsorted(starts, text_ends)
    return Ragged(span_hashes(prefix_sums(codes), starts, ends), offsets)


def shingle_hashes(words: Ragged, *, size: int) -> Ragged:
    """Return the hash of every window of ``size`` words, repeated ones as often as they occur."""
    lengths = np.where(
        words.lengths >= size, words.lengths - size + 1, np.minimum(words.lengths, 1)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.repeat(words.offsets[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1])
    padded = np.concatenate([words.hashes, np.zeros(size, dtype=np.uint64)])
    ends = np.repeat(words.offsets[1:], lengths)
    total = np.zeros(len(starts), dtype=np.uint64)
    has_short = bool((words.lengths < size).any())
    for place in range(size):
        word = padded[starts + place]
        if has_short:  # a window that ends early counts what is not there as zero
            word = np.where(starts + place < ends, word, np.uint64(0))
        total = total * np.uint64(WORD_STEP) + word
    return Ragged(mix(total), offsets)


def shingle_sets(texts: Sequence[str], *, size: int) -> list[Hashes]:
    """Return the distinct shingles of each text, sorted."""
    shingles = shingle_hashes(word_hashes(texts), size=size)
    return [np.unique(shingles[index]) for index in range(len(texts))]


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard index of two sorted sets of shingles; that of two empty ones is 0."""
    if len(one) > len(other):
        one, other = other, one
    if len(one) == 0:
        return 0.0
    places = np.searchsorted(other, one)
    places[places == len(other)] = 0
    shared = int((other[places] == one).sum())
    return shared / (len(one) + len(other) - shared)


@cache
def _word_codes() -> npt.NDArray[np.bool_]:
    r"""Return which Unicode code points ``\w`` matches in Python's re."""
    matches = np.zeros(NUM_CODES, dtype=np.bool_)
    for code in range(NUM_CODES):
        matches[code] = chr(code).isalnum()
    matches[ord("_")] = True
    return matches
