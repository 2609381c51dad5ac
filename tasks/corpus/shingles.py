"""Words and word n-grams (shingles) of documents as 64-bit hashes.

A word is what ``re.findall(r"\\w+", text.lower())`` returns; a shingle is a window of ``size``
words, or all words of a document that has fewer. MinHash, the exact Jaccard index and
decontamination all read texts through this module, so their words are the same.

A prefix sum of ``code * BASE**position`` over the characters of a text gives the polynomial hash of
any piece by one subtraction; its position is divided out, so equal pieces have equal hashes at any
position. The quality rules hash words and lines by it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from unicodedata import unidata_version

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

VERSION = 1  # raise it when a hash would change
ALGORITHM = f"words-{VERSION}-unicode-{unidata_version}"  # belongs in the cache keys of users
BATCH_CHARS = 2**17  # the arrays of one batch stay in the processor's cache
WORD_STEP = 0xD6E8FEB86659FD93  # odd; joins the hashes of a window's words
NUM_CODES = 0x110000
BASE = 0x9E3779B97F4A7C15  # odd, so powers have inverses modulo 2**64
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64, Steele et al. 2014


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
    matches = np.fromiter(
        (chr(code).isalnum() for code in range(NUM_CODES)), dtype=np.bool_, count=NUM_CODES
    )
    matches[ord("_")] = True
    return matches


# --- hashes of pieces ---------------------------------------------------------------------------


def prefix_sums(codes: npt.NDArray[np.unsignedinteger]) -> Hashes:
    """Return the sums that ``span_hashes`` takes, one more than there are characters."""
    powers, _ = _powers(_next_power_of_two(len(codes)))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return sums


def span_hashes(sums: Hashes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Hashes:
    """Return the hash of each piece ``[start, end)``."""
    _, inverses = _powers(_next_power_of_two(len(sums) - 1))
    spelling = (sums[ends] - sums[starts]) * inverses[starts]
    return mix(spelling + (ends - starts).astype(np.uint64))


def mix(values: Hashes) -> Hashes:
    """Spread every bit over all bits, one to one, so that any of them may serve as a random one."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Return the first ``count`` powers of ``BASE`` modulo 2**64, and their inverses."""
    powers, inverses = (
        np.full(count, base, dtype=np.uint64) for base in (BASE, pow(BASE, -1, 2**64))
    )
    powers[0] = inverses[0] = 1
    return np.cumprod(powers), np.cumprod(inverses)


def _next_power_of_two(number: int) -> int:
    """Return one that is larger than the number, so that the place after the end has a power."""
    return 1 << max(number, 1).bit_length()
