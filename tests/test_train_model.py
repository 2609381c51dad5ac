"""tasks.train_model: what the training process is told of its mixture."""

from __future__ import annotations

import pytest

from model.artifact import Artifact
from model.errors import ConfigError
from tasks.train_model import mixture_of

TEXT, CHAT = [
    Artifact(stage="write_shards", name=name, key=name, relative_path=f"write_shards/{name}")
    for name in ("text", "chat")
]


@pytest.mark.parametrize(("weights", "expected"), [((), [1.0, 1.0]), ((0.1, 0.9), [0.1, 0.9])])
def test_mixture_of_two_sets_gives_each_its_weight(weights, expected):
    mixture = mixture_of([TEXT, CHAT], weights)
    assert [part.shards for part in mixture] == ["write_shards/text", "write_shards/chat"]
    assert [part.weight for part in mixture] == expected


def test_mixture_of_with_a_weight_missing_raises_with_both_numbers():
    with pytest.raises(ConfigError, match=r"expected: 2 weights(.|\n)*found: 1: 0\.5"):
        mixture_of([TEXT, CHAT], [0.5])
