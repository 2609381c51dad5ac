"""Hyperparameter defaults: values by size, given values, and rates that follow the batch."""

from __future__ import annotations

import pytest

from flows.settings.config import PretrainConfig
from model.config.defaults import batch_tokens, default_tokens, resolve, with_defaults
from model.config.network import GEOMETRIES, ModelConfig
from model.config.train import Hyperparameters, TrainConfig
from model.core.errors import ConfigError
from tests.support.settings import resolved_config

VOCAB_SIZE = 32_768
BIG = ModelConfig(size="135m")


def test_resolve_reference_size_has_the_published_recipe() -> None:
    train = resolve(TrainConfig(), BIG, VOCAB_SIZE)
    assert train.batch_tokens_per_step == 2**19
    assert train.learning_rate == 0.02
    assert train.embedding_learning_rate == 0.3
    assert train.head_learning_rate == 0.008
    assert train.norm_learning_rate == 0.015
    assert train.weight_decay == 0.05
    assert train.tokens is None
    assert train.steps == 2_520  # 12 tokens for each of 110,100,480 parameters


@pytest.mark.parametrize(
    ("size", "log2_batch"),
    [("27m", 18), ("49m", 19), ("135m", 19), ("375m", 20), ("490m", 20)],
)
def test_batch_tokens_table(size: str, log2_batch: int) -> None:
    # nanochat's law gives 262k at 42M parameters, 524k at 70-235M, 1.05M at 324-918M.
    architecture = ModelConfig.model_validate({"size": size}).architecture(VOCAB_SIZE)
    assert batch_tokens(architecture) == 2**log2_batch


def test_default_tokens_are_twelve_per_parameter_of_matrices_and_head() -> None:
    assert default_tokens(BIG.architecture(VOCAB_SIZE)) == 12 * 110_100_480


@pytest.mark.parametrize("size", GEOMETRIES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_resolve_fills_everything_and_is_idempotent(size: str, optimizer: str) -> None:
    model = ModelConfig.model_validate({"size": size})
    train = resolve(TrainConfig.model_validate({"optimizer": optimizer}), model, VOCAB_SIZE)
    assert train.steps
    assert train.hyperparameters()
    assert resolve(train, model, VOCAB_SIZE) == train


def test_resolve_what_is_given_stays() -> None:
    given = {"learning_rate": 0.5, "warmup_steps": 0, "weight_decay": 0.0, "steps": 3}
    train = resolve(TrainConfig.model_validate(given), BIG, VOCAB_SIZE)
    assert {name: getattr(train, name) for name in given} == given
    assert train.head_learning_rate == 0.008  # of another part of the model


def test_resolve_adamw_one_rate_given_is_the_rate_of_all() -> None:
    train = TrainConfig(optimizer="adamw", learning_rate=0.5, norm_learning_rate=0.25)
    found = with_defaults(train, BIG.architecture(VOCAB_SIZE))
    assert found.embedding_learning_rate == found.head_learning_rate == 0.5
    assert found.norm_learning_rate == 0.25


def _defaults(optimizer: str, batch: int, model: ModelConfig = BIG) -> Hyperparameters:
    train = TrainConfig.model_validate({"optimizer": optimizer, "batch_tokens_per_step": batch})
    return with_defaults(train, model.architecture(VOCAB_SIZE)).hyperparameters()


def test_defaults_muon_rates_grow_with_the_root_of_a_larger_batch_only() -> None:
    whole, four_times, small = (_defaults("muon", batch) for batch in (2**19, 2**21, 2**12))
    for name in ("learning_rate", "embedding_learning_rate", "head_learning_rate"):
        assert getattr(four_times, name) == pytest.approx(2 * getattr(whole, name))
        assert getattr(small, name) == getattr(whole, name)


def test_defaults_adamw_rates_follow_the_root_of_the_batch() -> None:
    whole, quarter = (_defaults("adamw", batch) for batch in (2**19, 2**17))
    assert quarter.learning_rate == pytest.approx(whole.learning_rate / 2)


@pytest.mark.parametrize(("size", "batch"), [("10m", 2**14), ("135m", 2**17), ("490m", 2**21)])
def test_defaults_muon_decay_alike_over_every_default_horizon(size: str, batch: int) -> None:
    model = ModelConfig.model_validate({"size": size})
    found = _defaults("muon", batch, model)
    steps = default_tokens(model.architecture(VOCAB_SIZE)) / batch
    assert found.learning_rate * found.weight_decay * steps == pytest.approx(0.02 * 0.05 * 2520)


def test_defaults_do_not_depend_on_the_horizon() -> None:
    architecture = BIG.architecture(VOCAB_SIZE)
    short, long = TrainConfig(steps=10), TrainConfig(tokens=10**10)
    found = [with_defaults(train, architecture).hyperparameters() for train in (short, long)]
    assert found[0] == found[1]


def test_resolve_two_horizons_are_refused() -> None:
    with pytest.raises(ConfigError, match="exactly one horizon"):
        resolve(TrainConfig(steps=1, tokens=2), BIG, VOCAB_SIZE)


def test_flow_fills_defaults_before_any_key() -> None:
    config = resolved_config("demo", kind=PretrainConfig, train={"batch_tokens_per_step": 8_192})
    expected = resolve(config.train, config.model, config.tokenizer.vocab_size)
    assert config.train == expected
    assert config.train.batch_tokens_per_step == 8_192
    assert config.train.learning_rate == 0.02


def test_unresolved_config_has_no_hyperparameters() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_tokens_per_step is unset") as caught:
        TrainConfig(steps=10).hyperparameters()
    assert "model.config.defaults.resolve" in str(caught.value)
    filled = with_defaults(TrainConfig(steps=10), BIG.architecture(VOCAB_SIZE))
    with pytest.raises(ConfigError, match=r"train\.warmup_steps is unset"):
        filled.model_copy(update={"warmup_steps": None}).hyperparameters()
