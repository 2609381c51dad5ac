"""Budgets in minutes: one measurement, one horizon, one key."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow

from flows.pretrain import pretrain_base
from flows.settings.config import PretrainConfig
from flows.settings.overrides import merged_config
from model.config.defaults import resolve
from model.config.network import ModelConfig
from model.config.runs import Speed
from model.config.train import TrainConfig
from model.core.errors import ChildError, ConfigError
from model.core.store import ArtifactStore
from tasks.engine.stage import Stage
from tasks.planning.budget import Horizon, measured_horizon, planned_horizon
from tasks.stages.measure_speed import Machine, MeasureSpeed
from tasks.stages.train_model import TrainModel, train_model
from tests.support.flow_process import Home, run_flow
from tests.support.settings import plan_of, resolved_config

MODEL = ModelConfig(size="1m", context_tokens=16)
VOCAB_SIZE = 256
GIVEN = TrainConfig(batch_tokens_per_step=128, micro_batch_rows=2, budget_minutes=1.0)
TRAIN = resolve(GIVEN, MODEL, VOCAB_SIZE)


@flow(name="measure")
def measured(store: ArtifactStore, train: TrainConfig = TRAIN) -> Horizon:
    return measured_horizon(train, model=MODEL, vocab_size=VOCAB_SIZE, store=store)


def planned(store: ArtifactStore, train: TrainConfig = TRAIN) -> Horizon:
    return planned_horizon(train, model=MODEL, vocab_size=VOCAB_SIZE, store=store)


def key_of(horizon: Horizon) -> str:
    stage: Stage = train_model
    config = TrainModel(model=MODEL, train=horizon.train)
    return stage.derive("base", config=config, inputs={}).key


@pytest.mark.usefixtures("prefect_api")
def test_budget_twice_measures_once_and_buys_the_same_horizon(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    guess = planned(store)
    assert "measures the speed of this machine first" in guess.text
    assert guess.measurement is None

    first = measured(store)
    (manifest,) = store.manifests("measure_speed")
    again = measured(store)
    (same,) = store.manifests("measure_speed")
    assert same.origin.created_at == manifest.origin.created_at
    assert key_of(again) == key_of(first)
    assert planned(store).train == first.train

    speed = Speed.model_validate(manifest.facts)
    assert speed.micro_batches_per_step == 4
    assert first.train.steps == int(60 * speed.tokens_per_second / 128)
    assert (first.train.budget_minutes, first.train.tokens) == (None, None)
    assert first.measurement == manifest.artifact
    assert "measured here" in first.text

    half = planned(store, TRAIN.model_copy(update={"budget_minutes": 0.5, "learning_rate": 9.0}))
    assert half.train.steps == int(30 * speed.tokens_per_second / 128)  # no new measurement


def test_speed_is_keyed_by_what_decides_it() -> None:
    def key(train: TrainConfig, **machine: object) -> str:
        here = Machine.here(train).model_copy(update=machine)
        config = MeasureSpeed(model=MODEL, train=train, vocab_size=VOCAB_SIZE, machine=here)
        return str(config.semantic())

    def changed(**fields: object) -> TrainConfig:
        return TRAIN.model_copy(update=fields)

    known = key(TRAIN)
    assert key(changed(seed=7, learning_rate=1.0, budget_minutes=9.0)) == known
    assert key(changed(micro_batch_rows=4)) != known
    assert key(changed(batch_tokens_per_step=256)) != known
    assert key(changed(precision="float32")) != known
    assert key(changed(processes=2)) != known
    assert key(TRAIN, host="elsewhere") != known


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_budget_of_a_training_that_cannot_run_says_why(tmp_path: Path) -> None:
    uneven = TRAIN.model_copy(update={"batch_tokens_per_step": 100})
    with pytest.raises(
        ChildError, match=r"(?s)model.train.measure_speed stopped.*whole number of rows"
    ):
        measured(ArtifactStore(tmp_path), uneven)


def test_budget_takes_the_place_of_a_horizon_and_refuses_a_second_one() -> None:
    train = merged_config("demo", {"train": {"budget_minutes": 2}}, kind=PretrainConfig).train
    assert (train.budget_minutes, train.steps, train.tokens) == (2.0, None, None)
    with pytest.raises(ConfigError, match=r"(?s)exactly one horizon.*budget_minutes"):
        resolved_config("demo", kind=PretrainConfig, train={"budget_minutes": 2, "steps": 3})


def test_plan_of_a_budget_without_measurement_says_that_it_is_a_guess(tmp_path: Path) -> None:
    config = merged_config("demo", {"train": {"budget_minutes": 2}}, kind=PretrainConfig)
    text = plan_of(pretrain_base, config, ArtifactStore(tmp_path)).text()
    assert "horizon: 2 minutes of optimizer steps at" in text
    assert "its horizon will differ" in text


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_run_with_a_budget_twice_is_cached_the_second_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    settings = {"train__steps": None, "train__budget_minutes": 0.02}
    first = run_flow(home, "pretrain", **settings)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "predicted against actual" in first.stdout + first.stderr
    made = {item.artifact.key: item.origin.created_at for item in home.store.manifests()}
    again = run_flow(home, "pretrain", **settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert made == {item.artifact.key: item.origin.created_at for item in home.store.manifests()}
    assert list((home.data / "runs").glob("*/measure_speed/1m"))
