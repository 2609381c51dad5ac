"""What a user may ask of preference tuning, and what follows for keys, plan and reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.settings.config import ChatModelConfig
from model.config.network import ModelConfig
from model.config.outputs import TrainModelCounts, TrainModelOutputs
from model.config.train import DirectPreference, TrainConfig
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from tasks.corpus.demo.chats import demo_preferences, held_out_preferences
from tasks.corpus.demo.stories import Story
from tasks.corpus.sources.named_sets import ListedSet
from tasks.engine.record_sets import RecordSetCounts
from tasks.engine.stage import ResourceShare
from tasks.planning.base_checkpoint import find_base
from tasks.planning.estimate import TrainingEstimate
from tasks.reporting.chat import chat_rows
from tasks.reporting.outcome import outcome_text
from tasks.stages.read_preferences import (
    ReadPreferencesOutputs,
    build,
    preference_sets,
    read_preferences,
)
from tasks.stages.train_model import TrainModel
from tasks.stages.train_tokenizer import TrainTokenizerFacts, TrainTokenizerOutputs
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.stages.write_preference_shards import (
    WritePreferenceShardsCounts,
    WritePreferenceShardsOutputs,
)
from tasks.stages.write_shards import WriteShardsOutputs
from tests.support.hub_pages import hub_environment
from tests.support.hub_server import HubServer
from tests.support.settings import resolved_config
from tests.support.small_pipeline import filled, make, train_facts

REVISION = "0123456789" * 4


def demo(**preference: object) -> ChatModelConfig:
    chosen = {"method": "dpo"} | preference
    return resolved_config("demo", kind=ChatModelConfig, preference=chosen)


def test_resolve_gives_preference_tuning_every_value_only_where_it_is_asked_for():
    train = demo().preference.train
    assert (train.learning_rate, train.head_learning_rate) == (1e-4, 1e-4)
    assert train.beta2 == 0.95
    untouched = demo(method="none").preference.train
    assert untouched.beta2 is None


def test_resolve_takes_nested_settings_and_replaces_the_horizon():
    config = demo(train={"steps": 7}, dpo={"beta": 0.1})
    assert (config.preference.train.steps, config.preference.train.epochs) == (7, None)
    assert config.preference.dpo.beta == 0.1


def test_resolve_refuses_a_batch_that_is_no_whole_number_of_pairs():
    with pytest.raises(ConfigError, match="spread evenly over the processes") as error:
        demo(train={"batch_tokens_per_step": 3 * 256})
    assert "* 2" in str(error.value)


def test_resolve_refuses_a_budget_of_minutes():
    with pytest.raises(ConfigError, match="no budget of minutes") as error:
        demo(train={"budget_minutes": 3})
    assert "preference.train.epochs, steps or tokens" in str(error.value)


def test_resolve_refuses_a_weight_of_no_set_by_name():
    with pytest.raises(ConfigError, match=r"preference\.weights\.ultra\b") as error:
        demo(kind="sets", weights={"ultra": 2.0})
    assert "preference.weights.ultrafeedback" in str(error.value)


def test_key_of_a_training_without_dpo_does_not_know_of_it():
    fields = {"model": ModelConfig(size="1m"), "train": TrainConfig(steps=1)}
    assert "dpo" not in TrainModel.model_validate(fields).semantic()
    tuned = [TrainModel.model_validate(fields | {"dpo": {"beta": beta}}) for beta in (0.1, 0.5)]
    assert [item.semantic()["dpo"] for item in tuned] == [{"beta": 0.1}, {"beta": 0.5}]


def test_key_of_a_demo_set_knows_pairs_and_seed_and_not_the_training(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    keys = [
        preference_sets(config.preference, data_seed=seed, store=store)["demo"].semantic()
        for config, seed in [
            (demo(), 1),
            (demo(train={"steps": 3}, dpo={"beta": 0.9}), 1),
            (demo(), 2),
            (demo(demo_pairs=5), 1),
        ]
    ]
    assert keys[0] == keys[1]
    assert keys[2] != keys[0] != keys[3]


def test_local_set_is_known_by_its_content(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    store = ArtifactStore(tmp_path / "data")

    def key() -> object:
        config = demo(kind="sets", sets={"mine": str(path)}).preference
        return preference_sets(config, data_seed=1, store=store)["mine"].semantic()

    before = key()
    assert before == key()
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "d"}\n')
    assert key() != before


def test_held_out_pairs_are_about_stories_that_training_never_has():
    pairs = list(held_out_preferences(50, seed=1))
    assert pairs == list(held_out_preferences(50, seed=1)) != list(held_out_preferences(50, seed=2))
    for prompt, chosen, rejected in pairs:
        (message,) = prompt
        body, _, question = message["content"].rpartition("\n")
        paragraphs = tuple((line,) for line in body.split("\n"))
        told = Story(title="", paragraphs=paragraphs, facts={}, questions=())
        assert told.split == "held_out"
        assert question.endswith("?")
        assert chosen != rejected
    openings = {prompt[0]["content"] for prompt, _, _ in demo_preferences(300, seed=1)}
    assert not openings & {prompt[0]["content"] for prompt, _, _ in pairs}


def test_base_of_a_tuned_model_is_on_the_text_that_its_chat_model_grew_on(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    tokenizer = make(
        store, TrainTokenizerOutputs, "t", facts=filled(TrainTokenizerFacts, vocab_size=300)
    ).artifact
    text, chats, pairs = (
        make(store, stage, "training").artifact
        for stage in (WriteShardsOutputs, WriteChatShardsOutputs, WritePreferenceShardsOutputs)
    )
    config = {"model": ModelConfig(size="1m").semantic()}
    start = {"tokenizer": (tokenizer,)}
    base = make(
        store, TrainModelOutputs, "base", config=config, inputs=start | {"training": (text,)}
    ).artifact
    chat = make(
        store,
        TrainModelOutputs,
        "chat",
        config=config,
        inputs=start | {"training": (chats,), "init_from": (base,)},
    ).artifact
    tuned = make(
        store,
        TrainModelOutputs,
        "preferred",
        config=config,
        inputs=start | {"training": (pairs,), "init_from": (chat,)},
    ).artifact
    found = find_base(tuned.relative_path, store)
    assert found.trained == tuned
    assert found.pretraining == (text,)


def test_outcome_of_a_training_on_pairs_tells_its_accuracy(tmp_path: Path):
    facts = train_facts(tokens_per_second=100.0, metrics={"validation/preference_accuracy": 0.8125})
    manifest = make(
        ArtifactStore(tmp_path),
        TrainModelOutputs,
        "preferred",
        facts=facts,
        counts=filled(TrainModelCounts, tokens=6000),
    )
    expected = TrainingEstimate(
        artifact=manifest.artifact,
        num_tokens=6000,
        num_params=1,
        flops=1.0,
        tokens_per_second=50.0,
        rate_source="stated",
        memory_bytes=1,
        dollars_per_hour=0.0,
        is_first=False,
        prediction=None,
    )
    said = outcome_text(manifest, expected)
    assert "preference accuracy: not predicted, actual 81.2%" in said
    assert "bits per byte" not in said


def test_report_counts_pairs_from_records_to_rows(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    read = make(
        store,
        ReadPreferencesOutputs,
        "mine",
        counts=RecordSetCounts(num_in=9, num_training=5, num_held_out=2, equal_answers=2),
    )
    shards = make(
        store,
        WritePreferenceShardsOutputs,
        "training-mine",
        counts=filled(
            WritePreferenceShardsCounts, num_in=5, num_kept=4, too_long=1, num_trimmed=1, num_rows=8
        ),
    )
    found = [(row["what"], row["conversations"]) for row in chat_rows([read, shards])]
    assert found == [
        ("records", 9),
        ("equal_answers", -2),
        ("training", 5),
        ("held out", 2),
        ("too_long", -1),
        ("pairs kept", 4),
        ("of those without first turns", 1),
    ]


def test_dpo_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        DirectPreference(beta=0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    root = tmp_path / "repository"
    (root / "data").mkdir(parents=True)
    for name, numbers in (("train_prefs-0", range(30)), ("test_prefs-0", range(30, 40))):
        records = [
            {
                "prompt": f"Number {number}?",
                "chosen": said(f"Number {number}?", "yes"),
                "rejected": said(f"Number {number}?", "no"),
            }
            for number in numbers
        ]
        pq.write_table(pa.Table.from_pylist(records), root / f"data/{name}.parquet")
    with (
        hub_environment(monkeypatch),
        HubServer(root, repo="owner/pairs", revision=REVISION) as server,
    ):
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_hub_set_is_pinned_to_the_commit_of_its_branch_and_read(
    hub: HubServer, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "data")
    sets = {"pairs": "hub:owner/pairs@main:data/train_prefs-*.parquet"}
    config = demo(kind="sets", sets=sets, held_out_frac=0.3).preference
    (reading,) = preference_sets(config, data_seed=1, store=store).values()
    assert isinstance(reading.origin, ListedSet)
    assert reading.origin.source.revision == REVISION
    derivation = read_preferences.derive("pairs", config=reading, inputs={})
    share = ResourceShare(threads=1, memory_bytes=10**9)
    manifest = store.build(derivation, lambda work: build(work, reading, share), resume=True)
    counts = manifest.counts
    assert counts["num_in"] == 30 == counts["num_training"] + counts["num_held_out"]
    table = pq.read_table(store.path(manifest.artifact) / "training.parquet")
    assert set(table["file"].to_pylist()) == {"data/train_prefs-0.parquet"}
    assert {file.path for file in manifest.files} == {
        "training.parquet", "held_out.parquet", "rejected.parquet",
    }  # fmt: skip
