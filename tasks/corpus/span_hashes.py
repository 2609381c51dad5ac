"""Polynomial hashes of many pieces of one long text at once.

A prefix sum of ``code * BASE**position`` over the characters gives the polynomial hash of any piece
by one subtraction; its position is divided out, so equal pieces have equal hashes at any
position. Callers: ``shingles`` (stored, so ``VERSION`` there covers this) and the quality rules.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

BASE = 0x9E3779B97F4A7C15  # odd, so powers have inverses modulo 2**64
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64, Steele et al. 2014


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
