"""tasks.planning.base_checkpoint: the model a fine-tuning starts from, by its address."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.finetune import finetune_model
from flows.settings.config import ChatModelConfig
from flows.settings.presets import demo
from model.config.network import ModelConfig
from model.config.outputs import ExportModelFacts, ExportModelOutputs, TrainModelOutputs
from model.core.artifact import Manifest
from model.core.errors import ArtifactError, ConfigError, RegistryError
from model.core.store import ArtifactStore
from tasks.config.run import RegistryConfig
from tasks.planning.base_checkpoint import find_base
from tasks.stages.register_model import register_model
from tasks.stages.train_tokenizer import TrainTokenizerFacts, TrainTokenizerOutputs
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.stages.write_shards import WriteShardsCounts, WriteShardsOutputs
from tasks.tracking.run import pipeline_run
from tests.support.servers import local_mlflow_uri
from tests.support.settings import plan_of, resolved_config
from tests.support.small_pipeline import filled, make

MODEL = ModelConfig(size="1m", context_tokens=64)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def make_base(store: ArtifactStore, *, salt: str = "") -> Manifest:
    tokenizer = make(
        store, TrainTokenizerOutputs, "bpe", facts=filled(TrainTokenizerFacts, vocab_size=512)
    )
    training = make(
        store, WriteShardsOutputs, "training", counts=filled(WriteShardsCounts, num_rows=30)
    )
    validation = make(store, WriteShardsOutputs, "validation")
    return make(
        store,
        TrainModelOutputs,
        "base",
        config={"model": MODEL.semantic(), "train": {"steps": 3, "salt": salt}},
        inputs={
            "tokenizer": (tokenizer.artifact,),
            "training": (training.artifact,),
            "validation": (validation.artifact,),
        },
    )


def test_base_in_the_store_brings_what_it_was_trained_with(store: ArtifactStore) -> None:
    trained = make_base(store)
    for address in (trained.artifact.relative_path, "train_model/base"):
        base = find_base(address, store)
        assert base.trained == trained.artifact
        assert (base.tokenizer,) == trained.derivation.inputs["tokenizer"]
        assert base.pretraining == trained.derivation.inputs["training"]
        assert (base.model, base.vocab_size) == (MODEL, 512)


@pytest.mark.parametrize("has_read_text", [True, False])
def test_base_that_is_a_chat_model_keeps_the_pretraining_text(
    store: ArtifactStore, has_read_text: bool
) -> None:
    base = make_base(store)
    inputs = base.derivation.inputs
    chats = make(store, WriteChatShardsOutputs, "training-a")
    chat = make(
        store,
        TrainModelOutputs,
        "chat",
        config={"model": MODEL.semantic()},
        inputs={
            **inputs,
            "training": (chats.artifact,),
            "init_from": (base.artifact,),
            "pretraining": inputs["training"] if has_read_text else (),
        },
    )
    assert find_base(chat.artifact.relative_path, store).pretraining == inputs["training"]


def test_base_of_the_registry_is_the_training_behind_the_version(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    trained = make_base(store)
    exported = make(
        store,
        ExportModelOutputs,
        "base",
        files={"model/model.safetensors": "weights", "model/config.json": "{}"},
        facts=filled(ExportModelFacts, directory="model"),
        inputs={"model": (trained.artifact,)},
    )
    name = "base-of-finetuning"
    with pipeline_run(experiment=name, name="demo", config=demo(), flow="pretrain") as tracked:
        register_model.fn(
            tracked,
            exported.artifact,
            scores=(),
            registry=RegistryConfig(name=name),
            store=store,
        )
    address = f"models:/{name}@candidate"
    assert find_base(address, store).trained == trained.artifact
    config = resolved_config("demo", kind=ChatModelConfig, store=store, finetune={"base": address})
    assert config.finetune.base == trained.artifact.relative_path
    with pytest.raises(RegistryError, match=f"models:/{name}@champion"):
        find_base(f"models:/{name}", store)
    elsewhere = ArtifactStore(store.root.parent / "elsewhere")
    with pytest.raises(ArtifactError, match=r"(?s)models:/.*/1 was not made in this store"):
        find_base(f"models:/{name}@candidate", elsewhere)


def test_plan_of_a_fine_tuning_counts_the_base_and_not_the_preset(store: ArtifactStore) -> None:
    base = make_base(store)
    config = resolved_config(
        "demo",
        kind=ChatModelConfig,
        store=store,
        finetune={"base": base.artifact.relative_path, "train": {"steps": 5}},
    )
    assert config.tokenizer.vocab_size == 1_280
    assert config.model == MODEL
    (training,) = plan_of(finetune_model, config, store).trainings
    assert training.num_params == MODEL.architecture(512).num_params()


def test_walk_is_given_the_training_and_not_the_address_it_was_found_by(
    store: ArtifactStore,
) -> None:
    walked: list[str] = []
    base = make_base(store).artifact.relative_path
    config = resolved_config(
        "demo", kind=ChatModelConfig, store=store, finetune={"base": "train_model/base"}
    )
    plan_of(lambda _, run: walked.append(run.config.finetune.base), config, store)
    assert walked == [base]


@pytest.mark.parametrize("address", ["base", "models/base", "/data/train_model/base-1"])
def test_base_of_another_form_says_which_forms_there_are(
    store: ArtifactStore, address: str
) -> None:
    with pytest.raises(ConfigError, match=r"(?s)models:/<name>@<alias>.*finetune\.base"):
        find_base(address, store)


def test_base_that_is_not_there_is_named(store: ArtifactStore) -> None:
    make_base(store)
    make_base(store, salt="other")
    with pytest.raises(ArtifactError, match="no artifact begins with 'train_model/other"):
        find_base("train_model/other-0123", store)
    with pytest.raises(ArtifactError, match="several artifacts begin"):
        find_base("train_model/base", store)
