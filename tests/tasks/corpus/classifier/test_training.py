"""Training of the quality model against Newton's method, its measure, and round trips."""

from __future__ import annotations

import math
import random
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from model.core.errors import (
    CorpusError,
)
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.labels import (
    LabelledDocuments,
)
from tasks.corpus.classifier.linear_model import (
    Featurizer,
    QualityModel,
)
from tasks.corpus.classifier.training import train_and_measure, train_quality_model
from tests.support.quality_labels import (
    BITS,
    make_text,
)


@pytest.mark.parametrize("part", ["training", "heldout"])
def test_train_and_measure_a_part_of_one_kind_is_refused(part):
    features = np.arange(3, dtype=np.int32)
    is_heldout = np.arange(40) >= 20
    good = (np.arange(40) % 2 == 0) | (is_heldout == (part == "heldout"))
    found = LabelledDocuments([features] * 40, good, is_heldout)
    with pytest.raises(CorpusError, match="20 good ones of 20"):
        train_and_measure(found, config=QualityModelConfig(feature_bits=8), seed=1)


def test_train_and_measure_gives_the_share_of_pairs_in_order():
    chance = random.Random(2)
    good = np.array([number % 3 == 0 for number in range(400)])
    featurizer = Featurizer(BITS)
    documents = [featurizer.features(make_text(chance, good=bool(g), noise=1.3)) for g in good]
    is_heldout = np.arange(400) >= 300
    config = QualityModelConfig(feature_bits=BITS)
    measured = train_and_measure(
        LabelledDocuments(documents, good, is_heldout), config=config, seed=1
    )
    scores, good = measured.model.scores(documents[300:]), good[300:]
    pairs = list(product(scores[good], scores[~good]))
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert measured.auc == pytest.approx(expected)
    assert measured.counts.model_dump() == {
        "num_labelled": 400, "num_good": 134, "num_trained": 300, "num_heldout": 100,
    }  # fmt: skip


def test_train_ranks_unseen_texts_as_well_as_a_dense_newton_fit():
    chance = random.Random(3)
    good = np.array([number % 3 == 0 for number in range(900)])
    featurizer = Featurizer(8)
    texts = [make_text(chance, good=bool(label), noise=1.4) for label in good]
    documents = [featurizer.features(text) for text in texts]
    model = train_quality_model(documents[:600], good[:600], feature_bits=8, epochs=20, seed=1)
    ours = roc_auc_score(good[600:], model.scores(documents[600:]))
    dense = np.zeros((900, 257))
    for row, document in enumerate(documents):
        dense[row, document] = 1 / math.sqrt(len(document))
    dense[:, 256] = 1
    weights = newton_logistic(dense[:600], good[:600])
    reference = roc_auc_score(good[600:], dense[600:] @ weights)
    assert 0.7 < reference < 0.999
    assert ours > reference - 0.02


def newton_logistic(features, good, *, ridge=0.1):
    """Fit logistic regression with a ridge by Newton's method on dense features."""
    weights = np.zeros(features.shape[1])
    for _ in range(8):
        found = 1 / (1 + np.exp(-(features @ weights)))
        slope = features.T @ (found - good) + ridge * weights
        curve = (features.T * (found * (1 - found))) @ features + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(curve, slope)
    return weights


def test_train_same_labels_give_equal_bytes_and_survive_a_round_trip(tmp_path):
    chance = random.Random(4)
    good = np.array([number % 2 == 0 for number in range(300)])
    featurizer = Featurizer(BITS)
    documents = [featurizer.features(make_text(chance, good=bool(label))) for label in good]
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model = train_quality_model(documents, good, feature_bits=BITS, epochs=2, seed=7)
        model.save(tmp_path / name)
        kept.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert kept[0] == kept[1]
    again = QualityModel.load(tmp_path / "a")
    assert again.scores(documents).tolist() == model.scores(documents).tolist()
    assert again.scores([]).tolist() == []
    empty = again.scores([np.empty(0, np.int32)])
    assert empty.tolist() == [pytest.approx(1 / (1 + math.exp(-again.bias)))]
    other = train_quality_model(documents, good, feature_bits=BITS, epochs=2, seed=8)
    assert other.weights.tolist() != model.weights.tolist()
