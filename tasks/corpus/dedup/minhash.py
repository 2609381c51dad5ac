"""MinHash band keys: documents that share one are likely to be near-duplicates.

The minima come from rensa's kernel; signatures are folded into one 64-bit key per band at once and
not kept. With 14 bands of 8 rows, two documents of Jaccard index 0.85 share a key with probability
0.988, of 0.8 with 0.92, of 0.5 with 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash  # type: ignore[attr-defined]  # re-exported from its binary module

from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.corpus.shingles import Ragged, shingle_hashes, word_hashes

SEED = 1
ALGORITHM = f"rensa-{RMinHash.ALGORITHM_VERSION}-seed-{SEED}-{WORDS_ALGORITHM}"
KEY_STEP = np.uint64(0xD6E8FEB86659FD93)

BandKeys = npt.NDArray[np.uint64]


def band_keys(texts: Sequence[str], *, bands: int, band_rows: int, shingle_words: int) -> BandKeys:
    """Return the band keys of every text.

    Returns:
        Shape: [len(texts), bands]. Texts without a word have keys too, equal among themselves.
    """
    shingles = shingle_hashes(word_hashes(texts), size=shingle_words)
    minima = _minima(shingles, num_hashes=bands * band_rows).reshape(len(texts), bands, band_rows)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), (len(texts), bands))
    for row in range(band_rows):
        keys = keys * KEY_STEP + minima[:, :, row]
    return keys ^ (keys >> np.uint64(29))


def _minima(shingles: Ragged, *, num_hashes: int) -> npt.NDArray[np.uint32]:
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.offsets.astype(np.uint64), num_hashes, SEED
    )
    return np.array(digests.to_rows(), dtype=np.uint32).reshape(len(shingles.lengths), num_hashes)
