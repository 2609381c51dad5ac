"""Presets and what users set on top: precedence, twins, and errors that name the mend."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flows.settings.presets import PRESETS, PrepareConfig, PretrainConfig
from flows.settings.resolve import all_optional, groups_of, resolve
from model.config.train import TrainConfig
from model.core.errors import ConfigError
from tasks.config.chat import FinetuneConfig


def resolved(preset: str, **groups: Any) -> PretrainConfig:
    return resolve(preset, kind=PretrainConfig, **groups)


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
    config = resolved(preset)
    assert config.train.steps
    assert config.train.tokens is None
    assert config.preset == preset


def test_resolve_tokens_become_steps_of_whole_batches() -> None:
    config = resolved("demo", train={"tokens": 10 * 4_096 + 1})
    assert config.train.steps == 11


def test_resolve_full_is_ten_billion_tokens_at_1024_context() -> None:
    config = resolved("full")
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
        ({"evaluation": {"harness": "on"}}, r"(?s)nothing to ask.*harness and evaluation\.sets"),
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
    chat = resolved("full", chat={"sets": {"mine": "chats.jsonl"}}).chat
    assert chat.weights == {}
    assert resolved("full").chat.weights == {"everyday": 3.0}
    named = resolved("full", chat={"sets": {"mine": "x.jsonl"}, "weights": {"mine": 2}}).chat
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
    assert not hasattr(resolve("demo", kind=PrepareConfig), "train")
    with pytest.raises(ConfigError, match="unknown group 'train'"):
        resolve("demo", kind=PrepareConfig, train={"steps": 1})


def test_twin_of_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"the nearest is 'train.steps'"):
        all_optional(TrainConfig).model_validate({"stepz": 3})


def test_twin_has_the_fields_and_limits_of_its_config() -> None:
    for group, config in groups_of(PretrainConfig).items():
        twin = all_optional(config)
        assert twin.model_fields.keys() == config.model_fields.keys(), group
        assert twin().given() == {}
    with pytest.raises(ValidationError, match="greater than 0"):
        all_optional(TrainConfig).model_validate({"learning_rate": -1})


def test_semantic_of_runtime_fields_is_empty() -> None:
    config = resolved("demo")
    assert config.run.semantic() == {}
    faster = config.train.model_copy(update={"processes": 2, "log_every_steps": 1})
    assert faster.semantic() == config.train.semantic()
    other = config.train.model_copy(update={"learning_rate": 1.0})
    assert other.semantic() != config.train.semantic()
