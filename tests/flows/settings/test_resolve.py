"""Resolution of settings: precedence, errors that say what to do, and one resolution per run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flows.configured
import flows.settings.cli
import flows.settings.resolve
from flows.configured import run_command
from flows.pretrain import PRETRAIN
from flows.settings.cli import read_command
from flows.settings.config import ChatModelConfig, PrepareConfig, PretrainConfig
from flows.settings.overrides import all_optional, merged_config
from flows.settings.presets import PRESETS
from flows.settings.resolve import resolve
from model.config import defaults
from model.config.train import TrainConfig
from model.core.errors import ArtifactError, ConfigError
from model.core.store import ArtifactStore
from tasks.config.chat import ChatConfig, FinetuneConfig
from tests.flows.settings.golden import CASES, FILE, PRESET_ALONE, flat_values
from tests.support.settings import resolved_config


def resolved(preset: str, **groups: Any) -> PretrainConfig:
    return resolved_config(preset, kind=PretrainConfig, **groups)


def test_resolve_user_over_preset_over_default() -> None:
    config = resolved("demo", train={"learning_rate": 0.5})
    assert config.train.learning_rate == 0.5  # the user's
    assert config.tokenizer.vocab_size == 1_280  # the preset's
    assert config.filter.min_language_score == 0.65  # the default


def test_resolve_twin_and_plain_values_agree() -> None:
    twin = all_optional(TrainConfig).model_validate({"steps": 7})
    assert resolved("demo", train=twin) == resolved("demo", train={"steps": 7})


@pytest.mark.parametrize("preset", PRESETS)
def test_resolve_every_preset_has_a_horizon_in_steps(preset: str) -> None:
    config = resolved(preset, then_finetune=False)  # which would look up branches of the hub
    assert config.train.steps
    assert config.train.tokens is None
    assert config.preset == preset


def test_resolve_tokens_become_steps_of_whole_batches() -> None:
    config = resolved("demo", train={"tokens": 10 * 4_096 + 1})
    assert config.train.steps == 11


def test_resolve_full_is_ten_billion_tokens_at_1024_context() -> None:
    config = resolved("full", then_finetune=False)
    assert config.train.steps
    num_tokens = config.train.steps * config.train.batch_tokens_per_step
    assert 10e9 <= num_tokens < 10e9 + config.train.batch_tokens_per_step
    assert (config.model.size, config.model.context_tokens) == ("135m", 1024)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"train": {"stepz": 1}}, r"unknown setting 'train.stepz'; the nearest is 'train.steps'"),
        ({"trian": {"steps": 1}}, r"unknown group 'trian'; the nearest is 'train'"),
        ({"train": {"steps": 1, "tokens": 2}}, r"(?s)exactly one horizon.*train.tokens=2, train"),
        ({"filter": {"min_language_score": 3}}, r"filter.min_language_score cannot be 3"),
        (
            {"train": {"batch_tokens_per_step": 1_000}},
            r"(?s)whole number of rows.*train.batch_tokens_per_step and model.context_tokens",
        ),
        (
            {"train": {"processes": 3}},
            "(?s)evenly over the processes.*train.processes and train.nodes",
        ),
        (
            {"filter": {"min_words": 9, "max_words": 8}},
            r"(?s)filter.min_words <= filter.max_words.*9 > 8",
        ),
        ({"source": {"kind": "local"}}, r"(?s)needs a path.*source.kind and source.path"),
        ({"source": {"path": "docs.jsonl"}}, r"(?s)only a local source has a path.*docs.jsonl"),
        ({"tokenizer": {"vocab_size": 70_000}}, r"(?s)tokenizer.vocab_size cannot be 70000.*65536"),
        (
            {"finetune": {"train": {"stepz": 1}}},
            "unknown setting 'finetune.train.stepz'; the nearest is 'finetune.train.steps'",
        ),
        ({"finetune": {"train": 3}}, "finetune.train is a group of settings"),
        ({"then_finetun": True}, "the nearest is 'then_finetune'"),
        (
            {"finetune": {"train": {"batch_tokens_per_step": 1_000}}},
            "whole number of rows",
        ),
        ({"chat": {"kind": "sets", "sets": {}}}, r"(?s)no chat sets.*chat\.sets"),
        ({"chat": {"kind": "sets", "sets": {"a/b": "x"}}}, "cannot be that of a directory"),
        (
            {"chat": {"kind": "sets", "sets": {"mine": "x"}, "weights": {"nine": 2}}},
            "the nearest is 'chat.weights.mine'",
        ),
        (
            {"chat": {"kind": "sets", "sets": {"mine": "x"}, "weights": {"mine": -1}}},
            "cannot be read less than never",
        ),
        ({"evaluation": {"harness": "on"}}, r"(?s)no stage.*evaluation\.harness.*lm_eval"),
        ({"model": {"size": "7b"}}, r"(?s)model.size cannot be '7b'.*'135m'"),
    ],
)
def test_resolve_bad_setting_says_what_to_do(groups: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolved("demo", **groups)
    assert caught.value.fix


def test_resolve_setting_of_a_group_within_a_group() -> None:
    plain = {"train": {"steps": 7, "learning_rate": 0.5}, "registry": {"alias": "next"}}
    twin = all_optional(FinetuneConfig).model_validate(plain)
    for given in (plain, twin):
        finetune = resolved("demo", finetune=given).finetune
        assert (finetune.train.steps, finetune.train.epochs) == (7, None)
        assert finetune.train.learning_rate == 0.5  # the user's, not scaled
        assert finetune.train.micro_batch_rows == 16  # the preset's
        assert (finetune.registry.name, finetune.registry.alias) == ("demo-chat", "next")
    assert resolved("demo", finetune=plain).train == resolved("demo").train


def test_resolve_finetune_takes_a_share_of_the_rates_of_pretraining() -> None:
    config = resolved("demo", finetune={"rate_scale": 0.25, "train": {"head_learning_rate": 0.1}})
    train = config.finetune.train
    assert train.learning_rate == pytest.approx(0.25 * (config.train.learning_rate or 0))
    assert train.embedding_learning_rate == pytest.approx(
        0.25 * (config.train.embedding_learning_rate or 0)
    )
    assert train.head_learning_rate == 0.1
    assert train.weight_decay == config.train.weight_decay


def test_resolve_setting_without_a_group() -> None:
    assert resolved("demo").then_finetune
    assert not resolved("demo", then_finetune=False).then_finetune
    assert resolved("demo", then_finetune=None).then_finetune
    assert not resolved("sample").then_finetune
    with pytest.raises(ConfigError, match="then_finetune cannot be 'perhaps'"):
        resolved("demo", then_finetune="perhaps")


def test_resolve_other_chat_sets_do_not_inherit_weights() -> None:
    def chat_of(**chat: Any) -> ChatConfig:
        return merged_config("full", {"chat": chat}, kind=PretrainConfig).chat

    assert chat_of(sets={"mine": "chats.jsonl"}).weights == {}
    assert chat_of().weights == {"everyday": 3.0}
    named = chat_of(sets={"mine": "x.jsonl"}, weights={"mine": 2})
    assert named.weights == {"mine": 2.0}


@pytest.mark.parametrize("group", ["chat", "preference"])
def test_resolve_sets_that_are_named_are_those_that_are_read(group: str) -> None:
    sets = {"mine": "mine.jsonl"}
    assert getattr(resolved("demo"), group).kind == "demo"
    assert getattr(resolved("demo", **{group: {"sets": sets}}), group).kind == "sets"
    asked = resolved("demo", **{group: {"sets": sets, "kind": "demo"}})
    assert getattr(asked, group).kind == "demo"


def test_resolve_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'dmo'; the nearest is 'demo'"):
        resolved("dmo")


def test_resolve_prepare_takes_no_training_group() -> None:
    assert not hasattr(resolved_config("demo", kind=PrepareConfig), "train")
    with pytest.raises(ConfigError, match="unknown group 'train'"):
        resolved_config("demo", kind=PrepareConfig, train={"steps": 1})


def test_semantic_of_runtime_fields_is_empty() -> None:
    config = resolved("demo")
    assert config.run.semantic() == {}
    faster = config.train.model_copy(update={"processes": 2, "log_every_steps": 1})
    assert faster.semantic() == config.train.semantic()
    other = config.train.model_copy(update={"learning_rate": 1.0})
    assert other.semantic() != config.train.semantic()


GOLDEN = json.loads(FILE.read_text())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", PRESETS)
def test_resolve_gives_every_preset_the_values_it_had(
    preset: str, case: str, tmp_path: Path
) -> None:
    expected = GOLDEN[preset][PRESET_ALONE] | GOLDEN[preset][case]
    found = flat_values(preset, CASES[case], tmp_path)
    assert {name: found.get(name) for name in expected} == expected
    assert not found.keys() - expected.keys()


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(module, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.mark.usefixtures("prefect_api")
def test_run_from_the_command_line_resolves_each_setting_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path))
    merges = count_calls(monkeypatch, flows.settings.cli, "merged_config")
    merges_in_flow = count_calls(monkeypatch, flows.configured, "merged_config")
    resolutions = count_calls(monkeypatch, flows.configured, "resolve_config")
    filled = count_calls(monkeypatch, defaults, "resolve")
    settings = ["--preset", "demo", "--set", f"source.demo_documents={10**12}"]
    asked = read_command(PretrainConfig, "__main__", None, arguments=settings)
    assert asked
    with pytest.raises(SystemExit):  # the disk cannot hold it: refused when all is resolved
        run_command(PRETRAIN, asked)
    assert [len(merges), len(merges_in_flow), len(resolutions)] == [1, 0, 1]
    assert len(filled) == 2  # pretraining and fine-tuning


def test_base_model_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []

    def not_there(address: str, store: ArtifactStore) -> None:
        lookups.append(address)
        raise ArtifactError("no such training", where=store.root)

    monkeypatch.setattr(flows.settings.resolve, "find_base", not_there)
    with pytest.raises(ArtifactError):
        resolve(
            "demo",
            {"finetune": {"base": "train_model/base"}},
            kind=ChatModelConfig,
            store=ArtifactStore(tmp_path),
        )
    assert lookups == ["train_model/base"]
