"""A checkpoint that cannot be scored is refused before its training runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flows.pretrain import pretrain_models
from flows.settings.config import PretrainConfig
from flows.settings.overrides import all_optional
from model.config.outputs import KeptCheckpoint, TrainModelCounts, TrainModelOutputs
from model.core.artifact import Derivation
from model.core.errors import ConfigError
from model.core.store import ArtifactStore, Work
from tasks.config.evaluation import EvaluationConfig
from tasks.planning.plan import Plan
from tests.support.settings import plan_of, resolved_config
from tests.support.small_pipeline import filled, train_facts

TRAIN = {"steps": 1_000, "checkpoint_every_steps": 100, "keep_checkpoints": 3, "decay_frac": 0.65}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def plan(store: ArtifactStore, checkpoints: object, **settings: Any) -> Plan:
    groups = {"train": TRAIN, "then_finetune": False} | settings
    evaluation = {"checkpoints": checkpoints}
    config = resolved_config("demo", kind=PretrainConfig, evaluation=evaluation, **groups)
    return plan_of(pretrain_models, config, store)


@pytest.mark.parametrize("wrong", ["step-7x", ["final"], [0], [-1], [7.5], True, [True], {"a": 1}])
def test_setting_that_names_no_checkpoint_says_what_does(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"expected: best, last, or a step above 0") as caught:
        resolved_config("demo", kind=PretrainConfig, evaluation={"checkpoints": wrong})
    assert caught.value.where == "evaluation.checkpoints"


@pytest.mark.parametrize("one", ["best", "last", 200])
def test_one_checkpoint_needs_no_list(one: object) -> None:
    config = resolved_config("demo", kind=PretrainConfig, evaluation={"checkpoints": one})
    assert config.evaluation.checkpoints == (one,)
    given = all_optional(EvaluationConfig).model_validate({"checkpoints": one})
    assert given.given() == {"checkpoints": [one]}


@pytest.mark.parametrize("step", [1, 150, 350, 352, 1_001, 1_100])
def test_plan_refuses_a_step_at_which_nothing_is_saved(store: ArtifactStore, step: int) -> None:
    with pytest.raises(ConfigError, match=f"training base has no checkpoint {step} to") as caught:
        plan(store, [step])
    assert caught.value.where == "evaluation.checkpoints"
    assert "every 100 of its 1000 steps" in str(caught.value)


def test_plan_takes_what_is_kept_and_doubts_what_only_the_best_may_be(
    store: ArtifactStore,
) -> None:
    text = plan(store, ["best", "last", 800, 1_000, 351]).text()  # decay begins at 351
    assert "only if it is the best" not in text
    text = plan(store, [700]).text()
    assert "checkpoint 700 of training base is there to be scored only if it is the best" in text


def test_plan_looks_at_each_training(store: ArtifactStore) -> None:
    chat = {"train": {"steps": 200, "checkpoint_every_steps": 50}}
    with pytest.raises(ConfigError, match="training chat has no checkpoint 800"):
        plan(store, [800], finetune=chat, then_finetune=True)
    uncounted = plan(store, [800], then_finetune=True)  # epochs of rows that are not written
    assert "checkpoint 800" not in uncounted.text()


def test_plan_knows_what_a_finished_training_kept(store: ArtifactStore) -> None:
    (training,) = [
        step.derivation
        for step in plan(store, []).steps
        if step.artifact.stage == TrainModelOutputs.stage
    ]
    make(store, training, kept=[150, 1_000])
    assert plan(store, [150]).steps
    with pytest.raises(ConfigError, match=r"(?s)no checkpoint 800.*a kept step: 150, 1000"):
        plan(store, [800])


def test_plan_takes_a_step_that_another_training_can_be_gone_on_from(
    store: ArtifactStore,
) -> None:
    make(store, Derivation(stage=TrainModelOutputs.stage, name="base", version=1), kept=[150])
    make(store, Derivation(stage=TrainModelOutputs.stage, name="chat", version=1), kept=[250])
    assert "only if it resumes from a finished training's" in plan(store, [150]).text()
    with pytest.raises(ConfigError, match="no checkpoint 250"):  # of another kind of training
        plan(store, [250])
    with pytest.raises(ConfigError, match="no checkpoint 150"):
        plan(store, [150], train=TRAIN | {"extend": "never"})


def test_plan_knows_where_the_rate_falls_from_the_end_of_warmup_on(store: ArtifactStore) -> None:
    falling = TRAIN | {"decay_frac": 1.0, "warmup_steps": 40}
    with pytest.raises(ConfigError) as caught:
        plan(store, [1], train=falling)
    (pre_decay,) = re.findall(r"(\d+) where its rate begins to fall", str(caught.value))
    assert 30 < int(pre_decay) <= 40
    assert "to be scored only if" not in plan(store, [int(pre_decay)], train=falling).text()


def make(store: ArtifactStore, derivation: Derivation, *, kept: list[int]) -> None:
    """Put a finished training into a store whose inputs are not there."""

    def body(work: Work) -> None:
        (work.path / "out.txt").write_text("weights")
        checkpoints = tuple(KeptCheckpoint(step=step, path=f"step-{step}") for step in kept)
        facts = train_facts(checkpoints=checkpoints)
        TrainModelOutputs.record(work, filled(TrainModelCounts), facts)

    made = store.build(derivation.model_copy(update={"inputs": {}}), body)
    if made.artifact.key == derivation.key:
        return
    path = store.path(derivation.artifact)
    store.path(made.artifact).rename(path)
    manifest = made.model_copy(update={"artifact": derivation.artifact, "derivation": derivation})
    (path / "manifest.json").write_text(manifest.model_dump_json())
