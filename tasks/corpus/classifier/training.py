"""Training and measurement of the quality model, by scikit-learn's averaged SGD.

Batches of documents become one sparse matrix each, so memory holds the features of all labelled
documents and a copy of one batch. One thread; equal labels and seed give equal bytes.

scikit-learn takes two seconds to import: only the functions that need it do so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.core.errors import CorpusError
from model.core.outputs import Counts
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.labels import LabelledDocuments, Labels
from tasks.corpus.classifier.linear_model import Features, QualityModel, feature_matrix

BATCH_DOCUMENTS = 4_096
# Of rates 0.3 to 10 and the schedule "optimal" with alpha 1e-6 to 1e-4, this ranks best or nearly
# so on clean and on noisy labels (2026-12-01, 3,000 to 13,000 documents, 4 epochs).
LEARNING_RATE = 0.5
L2_PENALTY = 1e-6


class LabelCounts(Counts):
    """Labelled documents, the good ones of them, and the parts to train and to measure on."""

    num_labelled: int
    num_good: int
    num_trained: int
    num_heldout: int


@dataclass(frozen=True)
class MeasuredModel:
    """A trained model and the area under the ROC curve of the held-out documents."""

    model: QualityModel
    auc: float
    counts: LabelCounts


def train_and_measure(
    labelled: LabelledDocuments, *, config: QualityModelConfig, seed: int
) -> MeasuredModel:
    """Train on some labelled documents, and measure the model on those held out.

    Raises:
        CorpusError: either part is all good or all bad, or the model is worse than
            ``config.min_auc``.
    """
    from sklearn.metrics import roc_auc_score

    documents, good = labelled.documents, labelled.good
    seen, unseen = np.flatnonzero(~labelled.is_heldout), np.flatnonzero(labelled.is_heldout)
    model = train_quality_model(
        [documents[number] for number in seen.tolist()],
        good[seen],
        feature_bits=config.feature_bits,
        epochs=config.epochs,
        seed=seed,
    )
    _require_both(good[unseen])
    scores = model.scores([documents[number] for number in unseen.tolist()])
    auc = float(roc_auc_score(good[unseen], scores))
    if auc < config.min_auc:
        raise CorpusError(
            "the quality model cannot tell good documents from others",
            expected=f"an area under the curve of {config.min_auc} (quality_model.min_auc)",
            found=f"{auc:.3f} on {len(unseen):,} held-out documents",
            fix="check the labels and quality_model.min_good_label, or give more of them",
        )
    counts = LabelCounts(
        num_labelled=len(documents),
        num_good=int(good.sum()),
        num_trained=len(seen),
        num_heldout=len(unseen),
    )
    return MeasuredModel(model, auc, counts)


def train_quality_model(
    documents: Sequence[Features], good: Labels, *, feature_bits: int, epochs: int, seed: int
) -> QualityModel:
    """Return the model that tells good documents from others.

    Args:
        seed: of the order of documents, another one in each epoch.

    Raises:
        CorpusError: all labels are equal, or there are none.
    """
    from sklearn.linear_model import SGDClassifier

    _require_both(good)
    classifier = SGDClassifier(
        loss="log_loss",
        alpha=L2_PENALTY,
        learning_rate="constant",
        eta0=LEARNING_RATE,
        average=True,
        shuffle=False,  # the batches are shuffled already
    )
    for batch in _shuffled_batches(len(documents), epochs=epochs, seed=seed):
        matrix = feature_matrix([documents[number] for number in batch], feature_bits=feature_bits)
        classifier.partial_fit(matrix, good[batch], classes=[False, True])
    weights = np.asarray(classifier.coef_, np.float32)[0]
    return QualityModel(weights, np.asarray(classifier.intercept_).item(), feature_bits)


def _shuffled_batches(num_documents: int, *, epochs: int, seed: int) -> Iterator[list[int]]:
    """Yield the numbers of all documents in each epoch, in an order that the seed fixes."""
    numbers = list(range(num_documents))
    order = random.Random(seed)  # noqa: S311 - nothing secret is drawn
    for _ in range(epochs):
        order.shuffle(numbers)
        for start in range(0, num_documents, BATCH_DOCUMENTS):
            yield numbers[start : start + BATCH_DOCUMENTS]


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
