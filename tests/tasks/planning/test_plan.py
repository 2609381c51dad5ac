"""What a run would do and cost: rates, sizes, and the refusal of what cannot fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.pretrain import pretrain_base, pretrain_models
from flows.settings.config import LadderConfig, PretrainConfig
from flows.sweep import train_ladder
from model.config.outputs import TrainModelCounts, TrainModelOutputs
from model.core.artifact import Artifact
from model.core.errors import DiskSpaceError
from model.core.store import ArtifactStore
from model.eval.scaling_laws import LadderPoint, Prediction, ScalingCurve, ScalingFit
from tasks.planning.estimate import NO_PREDICTION, TrainingEstimate
from tasks.planning.plan import Plan, settings_text
from tasks.reporting.outcome import outcome_text, predicted_metrics
from tasks.stages.fit_scaling import FitScalingOutputs
from tasks.stages.report_corpus import ReportCorpusOutputs
from tasks.stages.write_chat_shards import WriteChatShardsCounts, WriteChatShardsOutputs
from tests.support.settings import plan_of, resolved_config
from tests.support.small_pipeline import filled, make, train_facts

POINTS = (
    LadderPoint(
        name="1m", size="1m", num_params=1, tokens=1, flops=1e12, bits_per_byte=1.2,
        is_on_frontier=True,
    ),
)  # fmt: skip


@pytest.fixture
def demo_plan(tmp_path: Path) -> Plan:
    config = resolved_config("demo", kind=PretrainConfig, train={"steps": 100})
    return plan_of(
        pretrain_base,
        config,
        ArtifactStore(tmp_path / "data"),
    )


def test_plan_of_demo_counts_tokens_parameters_and_flops(demo_plan: Plan) -> None:
    (training,) = demo_plan.trainings
    assert training.num_tokens == 100 * 4_096
    assert training.num_params == 1_181_056  # as the trained model counts itself
    network = resolved_config("demo", kind=PretrainConfig).model.architecture(1_280)
    assert training.flops == training.num_tokens * network.flops_per_token()
    assert training.memory_bytes == 16 * training.num_params


def test_plan_names_every_stage_and_why(demo_plan: Plan) -> None:
    text = demo_plan.text()
    for stage in ("download", "train_tokenizer", "write_shards", "train_model", "export_model"):
        assert stage in text
    assert text.count("never made") == 15


def test_plan_after_a_change_of_source_stays_short_and_gives_all_reasons_on_request(
    tmp_path: Path,
) -> None:
    store = ArtifactStore(tmp_path / "data")
    config = resolved_config("demo", kind=PretrainConfig, train={"steps": 100})
    old = {f"input.{number}": f"value {number} " * 20 for number in range(30)}
    make(store, ReportCorpusOutputs, "corpus", config=old)
    plan = plan_of(pretrain_base, config, store)
    assert len(plan.text().splitlines()) < 45
    rows = re.split(r"^│ (?=\w)", plan.text(), flags=re.MULTILINE)
    (row,) = [row for row in rows if row.startswith("report_corpus ")]
    assert re.search(r"and \d+ more", re.sub(r"[│\s]+", " ", row))
    for number in range(30):
        assert f'report_corpus.input.{number} "{old[f"input.{number}"]}"' in plan.reasons_text()


def test_plan_that_needs_more_than_the_disk_has_raises(tmp_path: Path) -> None:
    plan = Plan(steps=(), disk_bytes=10**18, data_memory_bytes=1, trainings=())
    with pytest.raises(DiskSpaceError, match="cannot hold this run") as caught:
        plan.require_disk(tmp_path / "not" / "there" / "yet")
    assert caught.value.where == tmp_path
    assert "free" in str(caught.value.found)


def test_plan_of_a_priced_machine_says_time_cost_and_that_nothing_is_predicted(
    tmp_path: Path,
) -> None:
    config = resolved_config(
        "demo", kind=PretrainConfig, train={"steps": 100}, run={"dollars_per_hour": 3.6}
    )
    plan = plan_of(
        pretrain_base,
        config,
        ArtifactStore(tmp_path / "data"),
    )
    (training,) = plan.trainings
    assert training.dollars == pytest.approx(training.seconds / 1000)
    text = plan.text()
    assert f"${training.dollars:,.2f}" in text
    assert NO_PREDICTION in text


def test_plan_of_a_chat_model_counts_epochs_when_the_rows_are_there(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "data")
    config = resolved_config("demo", kind=PretrainConfig, chat={"demo_conversations": 50})
    plan = plan_of(pretrain_models, config, store)
    assert "training chat: 2 epochs of rows that are counted when they are" in plan.text()
    assert [training.artifact.name for training in plan.trainings] == ["base"]
    alone = plan_of(pretrain_base, config, store)
    assert plan.disk_bytes > 1.8 * alone.disk_bytes  # its size is known before its length
    (shards,) = [
        step.derivation
        for step in plan.steps
        if WriteChatShardsOutputs.made(step.artifact) and step.artifact.name == "training-demo"
    ]
    path = store.path(shards.artifact)
    made = make(
        store,
        WriteChatShardsOutputs,
        shards.name,
        counts=filled(WriteChatShardsCounts, num_rows=76),
    )
    store.path(made.artifact).rename(path)
    base, chat = plan_of(pretrain_models, config, store).trainings
    assert chat.num_tokens == 10 * 4_096  # 2 epochs of 76 rows, 5 % text beside: 160 rows
    assert chat.prediction is None
    assert not chat.is_first
    assert base.is_first
    steps = resolved_config("demo", kind=PretrainConfig, finetune={"train": {"steps": 5}})
    _, chat = plan_of(pretrain_models, steps, ArtifactStore(tmp_path / "other")).trainings
    assert chat.num_tokens == 5 * 4_096


def test_conversations_are_read_before_the_base_that_they_come_after(tmp_path: Path) -> None:
    config = resolved_config("demo", kind=PretrainConfig, preference={"method": "dpo"})
    plan = plan_of(pretrain_models, config, ArtifactStore(tmp_path / "data"))
    stages = [step.artifact.stage for step in plan.steps]
    assert stages[:2] == ["read_chats", "read_preferences"]
    assert (stages.count("read_chats"), stages.count("read_preferences")) == (1, 1)
    (report,) = [step for step in plan.steps if step.artifact.stage == "report_corpus"]
    assert not {"read_chats", "read_preferences"} & report.derivation.inputs.keys()
    alone = resolved_config("demo", kind=PretrainConfig, then_finetune=False)
    plan = plan_of(pretrain_models, alone, ArtifactStore(tmp_path / "data"))
    assert "read_chats" not in {step.artifact.stage for step in plan.steps}


def test_plan_of_a_ladder_has_a_line_for_each_training_and_the_sum(tmp_path: Path) -> None:
    config = resolved_config("demo", kind=LadderConfig)
    plan = plan_of(train_ladder, config, ArtifactStore(tmp_path / "data"))
    assert [training.artifact.name for training in plan.trainings] == [
        "1m-201k", "1m-401k", "1m-803k", "10m-201k",
    ]  # fmt: skip
    text = plan.text()
    assert "all 4 trainings, one after the other" in text
    assert text.count(NO_PREDICTION) == 1
    one = plan.trainings[0]
    assert plan.training_of(one.artifact) == one


def test_plan_predicts_by_a_ladder_on_the_same_validation_rows_only(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "data")
    config = resolved_config("demo", kind=PretrainConfig)
    step = next(
        step
        for step in plan_of(pretrain_base, config, store).steps
        if step.stage.name == "train_model"
    )
    (validation,) = step.derivation.inputs["validation"]
    store.path(validation).mkdir(parents=True)
    curve = ScalingCurve(floor=0.2, factor=1.0, exponent=0.5, reference_flops=1e12)
    fit = ScalingFit(
        form="L", why="", curve=curve, alternatives=(), points=POINTS, degrees_of_freedom=1,
        residual_bits_per_byte=0.0, next_rung=None,
    )  # fmt: skip
    make_fit(store, validation, fit)
    (training,) = plan_of(pretrain_base, config, store).trainings
    assert training.prediction
    assert training.prediction.kind == "fitted"
    assert training.prediction.bits_per_byte == pytest.approx(curve.at(training.flops))
    other = resolved_config("demo", kind=PretrainConfig, validation={"num_documents": 399})
    (training,) = plan_of(pretrain_base, other, store).trainings
    assert training.prediction is None


def make_fit(store: ArtifactStore, validation: Artifact, fit: ScalingFit) -> None:
    made = make(store, FitScalingOutputs, "ladder", files={"fit.json": fit.model_dump_json()})
    inputs = made.derivation.model_copy(update={"inputs": {"validation": (validation,)}})
    manifest = made.model_copy(update={"derivation": inputs})
    (store.path(made.artifact) / "manifest.json").write_text(manifest.model_dump_json())


def test_outcome_text_sets_actual_beside_predicted(tmp_path: Path) -> None:
    manifest = make(
        ArtifactStore(tmp_path),
        TrainModelOutputs,
        "base",
        counts=filled(TrainModelCounts, tokens=60000, steps=60),
        facts=train_facts(validation_bits_per_byte=0.9, tokens_per_second=1000.0),
    )
    expected = TrainingEstimate(
        artifact=manifest.artifact,
        num_tokens=60_000,
        num_params=1,
        flops=1.0,
        tokens_per_second=500.0,
        rate_source="stated",
        memory_bytes=1,
        dollars_per_hour=60.0,
        prediction=Prediction(1.0, None, None, "fitted", "ladder"),
    )
    assert outcome_text(manifest, expected).splitlines() == [
        "training base, predicted against actual:",
        "  bits per byte: predicted 1.0000 (fitted), actual 0.9000 (-10.0%)",
        "  time: predicted 2.0 minutes at 500 tokens/s, actual 60 seconds at 1,000 tokens/s",
        "  cost: predicted $2.00, actual $1.00",
    ]
    assert predicted_metrics(manifest, expected) == {
        "predicted/tokens_per_second": 500.0,
        "predicted/bits_per_byte": 1.0,
        "cost/dollars": 1.0,
    }


def test_settings_text_has_one_line_per_setting() -> None:
    text = settings_text(
        resolved_config("demo", kind=PretrainConfig, train={"learning_rate": 0.004})
    )
    assert "train.learning_rate = 0.004" in text.splitlines()
    assert "train.batch_tokens_per_step = 4096" in text.splitlines()
    assert "preset = 'demo'" in text.splitlines()
