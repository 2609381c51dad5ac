"""Mixture and horizon that train_model gives to the training process."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.core.artifact import Artifact
from model.core.errors import ConfigError
from model.core.store import ArtifactStore, Work
from tasks.stages.train_model import TrainModel, count_steps, mixture, mixture_of, train_model
from tasks.stages.write_chat_shards import WriteChatShardsCounts, WriteChatShardsOutputs
from tests.support.small_pipeline import filled, make

TEXT, CHAT = [
    Artifact(stage="write_shards", name=name, key=name, relative_path=f"write_shards/{name}")
    for name in ("text", "chat")
]
TRAIN = TrainConfig(epochs=2, batch_tokens_per_step=640)  # 10 rows of 64 tokens


@pytest.mark.parametrize(("weights", "expected"), [((), [1.0, 1.0]), ((0.1, 0.9), [0.1, 0.9])])
def test_mixture_of_two_sets_gives_each_its_weight(weights, expected):
    parts = mixture_of([TEXT, CHAT], weights)
    assert [part.shards for part in parts] == ["write_shards/text", "write_shards/chat"]
    assert [part.weight for part in parts] == expected


def test_mixture_of_with_a_weight_missing_raises_with_both_numbers():
    with pytest.raises(ConfigError, match=r"expected: 2 weights(.|\n)*found: 1: 0\.5"):
        mixture_of([TEXT, CHAT], [0.5])


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def shards(store: ArtifactStore, name: str, *, num_rows: int) -> Artifact:
    return make(
        store, WriteChatShardsOutputs, name, counts=filled(WriteChatShardsCounts, num_rows=num_rows)
    ).artifact


def work_of(store: ArtifactStore, config: TrainModel, **inputs: object) -> Work:
    derivation = train_model.derive("chat", config=config, inputs=inputs)  # type: ignore[arg-type]
    return Work(store.root / "work", derivation, store)


def config_of(**fields: object) -> TrainModel:
    model = ModelConfig(size="1m", context_tokens=64)
    return TrainModel.model_validate({"model": model, "train": TRAIN} | fields)


def test_repeats_weigh_rows_and_pretraining_text_gets_its_share(store: ArtifactStore) -> None:
    config = config_of(repeats=(1.0, 3.0), pretraining_frac=0.2)
    training = [shards(store, "a", num_rows=100), shards(store, "b", num_rows=20)]
    texts = [shards(store, "t", num_rows=300), shards(store, "u", num_rows=100)]
    work = work_of(store, config, training=training, pretraining=texts)
    parts = mixture(work, config)
    assert [part.weight for part in parts] == pytest.approx([100, 60, 30, 10])
    assert [part.loss_on for part in parts] == [None, None, "all", "all"]
    total = sum(part.weight for part in parts)
    assert sum(part.weight for part in parts[2:]) / total == pytest.approx(0.2)
    # two epochs of 160 rows of conversations, which are four fifths of all: 400 rows, 10 a step
    assert count_steps(config, work.derivation, store) == 40


def test_epochs_of_text_alone_are_passes_over_its_rows(store: ArtifactStore) -> None:
    config = config_of()
    training = [shards(store, "a", num_rows=101)]
    work = work_of(store, config, training=training)
    assert count_steps(config, work.derivation, store) == 21
    assert [part.weight for part in mixture(work, config)] == [1.0]


def test_epochs_of_rows_that_are_not_written_are_not_known(store: ArtifactStore) -> None:
    config = config_of()
    work = work_of(store, config, training=[TEXT])
    assert count_steps(config, work.derivation, store) is None


def test_repeats_for_another_number_of_sets_are_refused(store: ArtifactStore) -> None:
    config = config_of(repeats=(1.0, 2.0))
    work = work_of(store, config, training=[shards(store, "a", num_rows=5)])
    with pytest.raises(ConfigError, match=r"(?s)expected: 1 weights.*found: 2.*repeats"):
        mixture(work, config)


def test_key_of_a_training_on_text_has_no_fields_of_other_trainings() -> None:
    plain = TrainModel(model=ModelConfig(size="1m"), train=TrainConfig(steps=3))
    assert set(plain.semantic()) == {"model", "train", "mixture_weights"}
    assert "epochs" not in plain.semantic()["train"]
    chat = config_of(repeats=(1.0,), pretraining_frac=0.1, style="chat").semantic()
    assert chat["train"]["epochs"] == 2
    assert (chat["repeats"], chat["pretraining_frac"]) == ([1.0], 0.1)
