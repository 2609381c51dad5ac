"""A linear model of text quality: logistic regression on hashed words and word pairs.

A text is the set of its words (``\\w+`` in lower case) and neighbouring pairs, hashed to weights;
each present feature has the value ``1 / sqrt(number of features)``, so that length alone says
nothing. The score is the probability of a good label, as frequent as it was among the labels.
Trained by AdaGrad in plain numpy, without threads: equal labels give equal bytes.

Format of a model, a directory: ``weights.npy`` (float32, one per hash value) and ``model.json``
(``bias``, ``feature_bits``, ``features``: the version of the features).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import unidata_version

import numpy as np
import numpy.typing as npt
import xxhash

from model.core.errors import ArtifactError, CorpusError
from tasks.config.corpus import QualityModelConfig

FEATURES_VERSION = 1
ALGORITHM = f"xxh3-words-pairs-{FEATURES_VERSION}-unicode-{unidata_version}"  # for cache keys
MAX_CHARS = 10_000  # of a text; the rest is not looked at
BATCH_DOCUMENTS = 256
LEARNING_RATE = 0.1  # AdaGrad's: about the first step of each weight
DECAY = 1e-6  # of all weights, a step: those of rare features stay small
WEIGHTS_FILE = "weights.npy"
MODEL_FILE = "model.json"

_WORD = re.compile(r"\w+")
_PAIR_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # odd, as xxHash's
_MAX_KNOWN_WORDS = 1_000_000

Features = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


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
    """word -> its hash, made when first asked for."""

    def __missing__(self, word: str) -> int:
        found = self[word] = xxhash.xxh3_64_intdigest(word.encode("utf-8", "replace"))
        return found


@dataclass(frozen=True)
class QualityModel:
    """Weights of the features, and the score of a text that has none."""

    weights: npt.NDArray[np.float32]
    bias: float
    feature_bits: int

    def scores(self, documents: Sequence[Features]) -> Floats:
        """Return the probability of a good label for each document."""
        return _probability(_Batch.of(documents).margins(self.weights) + self.bias)

    def save(self, directory: Path) -> None:
        """Write the model into an existing directory."""
        np.save(directory / WEIGHTS_FILE, self.weights)
        facts = {
            "features": FEATURES_VERSION,
            "feature_bits": self.feature_bits,
            "bias": self.bias,
        }
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


@dataclass(frozen=True)
class MeasuredModel:
    """A trained model and how well it ranks documents that it has not seen.

    Args:
        auc: area under the ROC curve of the held-out documents.
        num_good: of all labelled documents.
    """

    model: QualityModel
    auc: float
    num_trained: int
    num_heldout: int
    num_good: int


def train_and_measure(
    documents: Sequence[Features],
    good: Labels,
    is_heldout: Labels,
    *,
    config: QualityModelConfig,
    seed: int,
) -> MeasuredModel:
    """Train on some labelled documents, and measure the model on those held out.

    Raises:
        CorpusError: either part is all good or all bad, or the model is worse than
            ``config.min_auc``.
    """
    seen, unseen = np.flatnonzero(~is_heldout), np.flatnonzero(is_heldout)
    model = train_quality_model(
        [documents[number] for number in seen.tolist()],
        good[seen],
        feature_bits=config.feature_bits,
        epochs=config.epochs,
        seed=seed,
    )
    auc = area_under_curve(
        model.scores([documents[number] for number in unseen.tolist()]), good[unseen]
    )
    if auc < config.min_auc:
        raise CorpusError(
            "the quality model cannot tell good documents from others",
            expected=f"an area under the curve of {config.min_auc} (quality_model.min_auc)",
            found=f"{auc:.3f} on {len(unseen):,} held-out documents",
            fix="check the labels and quality_model.min_good_label, or give more of them",
        )
    return MeasuredModel(
        model=model,
        auc=auc,
        num_trained=len(seen),
        num_heldout=len(unseen),
        num_good=int(good.sum()),
    )


def train_quality_model(
    documents: Sequence[Features], good: Labels, *, feature_bits: int, epochs: int, seed: int
) -> QualityModel:
    """Return the model that tells good documents from others.

    Args:
        documents: features of each document.
        good: its label.
        seed: of the order of documents, another one in each epoch.

    Raises:
        CorpusError: all labels are equal, or there are none.
    """
    _require_both(good)
    share = float(good.mean())
    bias = float(np.log(share / (1 - share)))
    weights, squares = np.zeros((2, 1 << feature_bits))
    for epoch in range(epochs):
        for batch in _batches(len(documents), seed=seed, epoch=epoch):
            features = _Batch.of([documents[number] for number in batch.tolist()])
            errors = _probability(features.margins(weights) + bias) - good[batch]
            gradient = features.gradient(errors, size=len(weights))
            squares += gradient**2
            weights *= 1 - DECAY
            weights -= LEARNING_RATE * gradient / np.sqrt(squares + 1e-12)
            bias -= LEARNING_RATE * float(errors.mean())
    return QualityModel(weights.astype(np.float32), bias, feature_bits)


def area_under_curve(scores: Floats, good: Labels) -> float:
    """Return the probability that a good document scores higher than another one.

    The ROC curve's area by ranks (Mann and Whitney's U); equal scores count one half.

    Raises:
        CorpusError: all labels are equal, or there are none.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    _require_both(good)
    _, place, num_equal = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(num_equal)
    mean_rank = last_rank - (num_equal - 1) / 2
    num_good = int(good.sum())
    rank_sum = float(mean_rank[place][good].sum())
    return (rank_sum - num_good * (num_good + 1) / 2) / (num_good * (len(good) - num_good))


@dataclass(frozen=True)
class _Batch:
    """Features of several documents, one after the other."""

    features: Features
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, documents: Sequence[Features]) -> _Batch:
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        features = np.concatenate([np.empty(0, np.int32), *documents])
        return cls(features, np.cumsum(lengths) - lengths, lengths)

    def margins(self, weights: npt.NDArray[np.floating]) -> Floats:
        sums = np.zeros(len(self.lengths))
        filled = self.lengths > 0
        if filled.any():
            found = weights[self.features].astype(np.float64)
            sums[filled] = np.add.reduceat(found, self.starts[filled])
        return sums * self._value()

    def gradient(self, errors: Floats, *, size: int) -> Floats:
        each = np.repeat(errors * self._value() / len(errors), self.lengths)
        return np.bincount(self.features, weights=each, minlength=size).astype(np.float64)

    def _value(self) -> Floats:
        return 1 / np.sqrt(np.maximum(self.lengths, 1))


def _batches(num_documents: int, *, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the numbers of all documents in an order that seed and epoch fix on every machine."""
    keys = [
        xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed=seed + (epoch << 32))
        for number in range(num_documents)
    ]
    order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
    for start in range(0, num_documents, BATCH_DOCUMENTS):
        yield order[start : start + BATCH_DOCUMENTS]


def _probability(margins: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(margins, -30, 30)))


def _unreadable(directory: Path, *, found: object) -> ArtifactError:
    return ArtifactError(
        "a quality model cannot be read",
        expected=f"{MODEL_FILE} with features {FEATURES_VERSION}, and {WEIGHTS_FILE}",
        found=found,
        where=directory,
        fix="train it again",
    )


def _require_both(good: Labels) -> None:
    num_good = int(good.sum())
    if 0 < num_good < len(good):
        return
    raise CorpusError(
        "labelled documents are all of one kind",
        expected="good documents and others",
        found=f"{num_good:,} good ones of {len(good):,}",
        fix="set quality_model.min_good_label between the labels, or give more labelled documents",
    )
