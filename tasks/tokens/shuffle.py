"""The seeded order of documents: a hash of what a document is called, not of where it lies.

A document's place depends on its file's name, its row and the seed only, so neither the order in
which files are given, nor workers, nor other documents change the order of any two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

ALGORITHM: Final = (
    "splitmix64(xxh64(file, seed), row)"  # for cache keys: names what fixes the order
)

_GOLDEN_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def document_hashes(
    file_index: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    *,
    files: Sequence[str],
    seed: int,
) -> npt.NDArray[np.uint64]:
    """Return one well-mixed hash per document.

    The hash of row ``r`` is output ``r`` of the generator SplitMix64 started at the xxh64 of the
    file's name under ``seed``.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with the
    mixing constants of Vigna's splitmix64.c.

    Args:
        file_index: position in ``files`` of each document's file.
        row: row of each document in its file.
    """
    starts = [xxhash.xxh64_intdigest(name.encode(), seed=seed) for name in files]
    return splitmix64(np.array(starts, dtype=np.uint64)[file_index], row.astype(np.uint64))


def splitmix64(
    start: npt.NDArray[np.uint64], index: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return output number ``index`` (from 0) of the SplitMix64 generators with these starts."""
    state = start + (index + np.uint64(1)) * _GOLDEN_GAMMA
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
