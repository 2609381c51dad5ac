"""A linear model of text quality: logistic regression on hashed words and word pairs.

A text is the set of its words (``\\w+`` in lower case) and neighbouring pairs, hashed to weights;
each present feature has the value ``1 / sqrt(number of features)``, so that a score does not
depend on length alone. The score is the probability of a good label. ``training`` fits the model.

Format of a model, a directory: ``weights.npy`` (float32, one per hash value) and ``model.json``
(``bias``, ``feature_bits``, ``features``: the version of the features).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import unidata_version

import numpy as np
import numpy.typing as npt
import xxhash
from scipy.sparse import csr_matrix
from scipy.special import expit

from model.core.errors import ArtifactError

FEATURES_VERSION = 1
ALGORITHM = f"xxh3-words-pairs-{FEATURES_VERSION}-unicode-{unidata_version}"  # for cache keys
MAX_CHARS = 10_000  # of a text; the rest is ignored
WEIGHTS_FILE = "weights.npy"
MODEL_FILE = "model.json"

_WORD = re.compile(r"\w+")
_PAIR_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # odd, as xxHash's
_MAX_KNOWN_WORDS = 1_000_000

Features = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class Featurizer:
    """Turn texts into sets of features; remembers the hashes of words it has seen."""

    def __init__(self, feature_bits: int) -> None:
        self._shift = np.uint64(64 - feature_bits)
        self._hashes = _WordHashes()

    def features(self, text: str) -> Features:
        """Return the features of a text, each once, in rising order."""
        words = _WORD.findall(text[:MAX_CHARS].lower())
        if len(self._hashes) > _MAX_KNOWN_WORDS:
            self._hashes.clear()
        hashes = np.array([self._hashes[word] for word in words], dtype=np.uint64)
        first, second = _PAIR_FACTORS
        pairs = (hashes[:-1] * first) ^ (hashes[1:] * second)
        pairs *= first  # the highest bits, which are kept, now depend on all others
        found = (np.concatenate([hashes, pairs]) >> self._shift).astype(np.int32)
        found.sort()
        is_new = np.ones(len(found), dtype=bool)
        np.not_equal(found[1:], found[:-1], out=is_new[1:])
        return found[is_new]


class _WordHashes(dict[str, int]):
    """word -> its hash, made when first asked for; twice as fast as ``functools.lru_cache``."""

    def __missing__(self, word: str) -> int:
        found = self[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace"))
        return found


def feature_matrix(documents: Sequence[Features], *, feature_bits: int) -> csr_matrix:
    """Return the values of the features, one row a document."""
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    columns = np.concatenate([np.empty(0, np.int32), *documents])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((values, columns, offsets), shape=(len(documents), 1 << feature_bits))


@dataclass(frozen=True)
class QualityModel:
    """Weights of the features, and the score of a text that has none."""

    weights: npt.NDArray[np.float32]
    bias: float
    feature_bits: int

    def scores(self, documents: Sequence[Features]) -> Floats:
        """Return the probability of a good label for each document."""
        matrix = feature_matrix(documents, feature_bits=self.feature_bits)
        return expit(matrix @ self.weights + self.bias)

    def save(self, directory: Path) -> None:
        """Write the model into an existing directory."""
        np.save(directory / WEIGHTS_FILE, self.weights)
        facts = {"features": FEATURES_VERSION, "feature_bits": self.feature_bits, "bias": self.bias}
        (directory / MODEL_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> QualityModel:
        """Read a model.

        Raises:
            ArtifactError: it is missing, damaged, or of other features.
        """
        try:
            facts = json.loads((directory / MODEL_FILE).read_text(encoding="utf-8"))
            weights = np.load(directory / WEIGHTS_FILE, allow_pickle=False)
            expected = ((1 << facts["feature_bits"],), np.float32, FEATURES_VERSION)
            found = (weights.shape, weights.dtype, facts["features"])
            bias = float(facts["bias"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise _unreadable(directory, found=exc) from exc
        if found != expected:
            raise _unreadable(directory, found=found)
        return cls(weights, bias, facts["feature_bits"])


def _unreadable(directory: Path, *, found: object) -> ArtifactError:
    return ArtifactError(
        "a quality model cannot be read",
        expected=f"{MODEL_FILE} with features {FEATURES_VERSION}, and {WEIGHTS_FILE}",
        found=found,
        where=directory,
        fix="train it again",
    )
