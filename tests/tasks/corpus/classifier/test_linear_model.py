"""The quality model: features of texts, and models on disk."""

from __future__ import annotations

import numpy as np
import pytest

from model.core.errors import (
    ArtifactError,
)
from tasks.corpus.classifier.linear_model import (
    MAX_CHARS,
    Featurizer,
    QualityModel,
)


def test_features_are_words_and_pairs_each_once():
    featurizer = Featurizer(24)
    assert len(featurizer.features("One two one two ONE")) == 2 + 2
    assert featurizer.features("One, two!").tolist() == featurizer.features("one two").tolist()
    a, b, both = (featurizer.features(text) for text in ("one", "two", "one two"))
    turned = featurizer.features("two one")
    assert set(a) | set(b) < set(both)
    assert len(set(both) & set(turned)) == 2
    assert featurizer.features("").tolist() == featurizer.features(" ?! ").tolist() == []
    long = "word " * (MAX_CHARS // 5)
    assert featurizer.features(long + "unseen").tolist() == featurizer.features(long).tolist()


@pytest.mark.parametrize("damage", ["missing", "text", "size", "version"])
def test_load_damaged_model_raises_artifact_error(tmp_path, damage):
    QualityModel(np.zeros(1 << 8, np.float32), 0.5, 8).save(tmp_path)
    if damage == "missing":
        (tmp_path / "weights.npy").unlink()
    elif damage == "size":
        np.save(tmp_path / "weights.npy", np.zeros(7, np.float32))
    else:
        facts = '{"features": 99, "feature_bits": 8, "bias": 0}' if damage == "version" else "no"
        (tmp_path / "model.json").write_text(facts)
    with pytest.raises(ArtifactError, match=r"quality model cannot be read(.|\n)*train it again"):
        QualityModel.load(tmp_path)
