"""Ladders: sizes and horizons as trainings, and what a sweep's settings may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.settings.config import LadderConfig
from flows.settings.presets import PRESETS
from flows.settings.resolve import resolve
from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from tasks.config.run import SweepConfig
from tasks.planning.ladder import Rung, next_rung, num_tokens, rungs, short_count
from tests.support.settings import resolved_config

VOCAB_SIZE = 1_280
MODEL = ModelConfig(context_tokens=256)
TRAIN = TrainConfig(batch_tokens_per_step=4_096)


def ladder_of(**sweep: Any) -> list[Rung]:
    return rungs(SweepConfig(**sweep), model=MODEL, train=TRAIN, vocab_size=VOCAB_SIZE)


def test_rungs_by_ratio_have_whole_steps_and_names_of_size_and_tokens() -> None:
    ladder = ladder_of(sizes=("10m", "1m"), tokens_per_param=2.0)
    assert [rung.model.size for rung in ladder] == ["1m", "10m"]
    for rung in ladder:
        weights = rung.model.architecture(VOCAB_SIZE).num_matmul_params()
        assert 2 * weights <= num_tokens(rung) < 2 * weights + 4_096
        assert rung.name == f"{rung.model.size}-{short_count(num_tokens(rung))}"
        assert rung.train.tokens is None


def test_rungs_of_one_size_differ_by_their_tokens() -> None:
    ladder = ladder_of(sizes=("1m", "1m"), tokens=(400_000, 200_000))
    assert [rung.name for rung in ladder] == ["1m-201k", "1m-401k"]
    assert [rung.train.steps for rung in ladder] == [49, 98]


def test_next_rung_keeps_the_ratio() -> None:
    sweep = SweepConfig(sizes=("1m", "10m"), tokens_per_param=2.0)
    ladder = rungs(sweep, model=MODEL, train=TRAIN, vocab_size=VOCAB_SIZE)
    weights = MODEL.model_copy(update={"size": "27m"}).architecture(VOCAB_SIZE).num_matmul_params()
    assert next_rung(sweep, ladder, vocab_size=VOCAB_SIZE) == ("27m", 2 * weights)


def test_next_rung_after_the_largest_size_is_none() -> None:
    sweep = SweepConfig(sizes=("375m", "490m"))
    ladder = rungs(sweep, model=MODEL, train=TRAIN, vocab_size=VOCAB_SIZE)
    assert next_rung(sweep, ladder, vocab_size=VOCAB_SIZE) is None


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"sizes": ("1m", "10m"), "tokens": (5_000,)}, r"(?s)needs its horizon.*2 numbers"),
        ({"sizes": ("1m", "1m")}, r"(?s)two trainings of the ladder are the same.*1m-"),
    ],
)
def test_ladder_that_cannot_be_says_why(sweep: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ladder_of(**sweep)


@pytest.mark.parametrize("preset", PRESETS)
def test_resolve_every_preset_has_a_ladder(preset: str, tmp_path: Path) -> None:
    run = resolve(preset, {}, kind=LadderConfig, store=ArtifactStore(tmp_path))
    assert len(run.ladder) >= 4
    vocab_size = run.config.tokenizer.vocab_size
    assert next_rung(run.config.sweep, run.ladder, vocab_size=vocab_size)


@pytest.mark.parametrize(
    "groups", [{"model": {"size": "1m"}}, {"train": {"steps": 9}}, {"train": {"budget_minutes": 1}}]
)
def test_resolve_ladder_refuses_size_and_horizon_of_one_training(groups: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(?s)its own size and horizon.*sweep.sizes"):
        resolved_config("demo", kind=LadderConfig, **groups)


def test_resolve_ladder_takes_the_other_settings() -> None:
    config = resolved_config(
        "demo",
        kind=LadderConfig,
        model={"context_tokens": 128},
        train={"learning_rate": 0.5},
        sweep={"sizes": ["1m", "10m"], "tokens": []},
    )
    assert (config.model.context_tokens, config.train.learning_rate) == (128, 0.5)
    assert config.sweep.sizes == ("1m", "10m")
