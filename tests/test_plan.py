"""What a run would do and cost: rates, sizes, and the refusal of what cannot fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.configured import plan_flow
from flows.overrides import resolve
from flows.presets import PretrainConfig
from flows.pretrain import pretrain_model
from model.errors import DiskSpaceError
from model.store import ArtifactStore
from tasks.plan import Plan, TrainingEstimate, settings_text


@pytest.fixture
def demo_plan(tmp_path: Path) -> Plan:
    config = resolve("demo", kind=PretrainConfig, train={"steps": 100})
    return plan_flow(pretrain_model, config, ArtifactStore(tmp_path / "data"))


def test_plan_of_demo_counts_tokens_parameters_and_flops(demo_plan: Plan) -> None:
    training = demo_plan.training
    assert training
    assert training.num_tokens == 100 * 4_096
    assert training.num_params == 1_017_216  # as the trained model counts itself
    network = resolve("demo", kind=PretrainConfig).model.architecture(1_280)
    assert training.flops == training.num_tokens * network.flops_per_token()
    assert training.memory_bytes == 16 * training.num_params


def test_plan_names_every_stage_and_why(demo_plan: Plan) -> None:
    text = demo_plan.text()
    for stage in ("download", "train_tokenizer", "write_shards", "train_model", "export_model"):
        assert stage in text
    assert text.count("never made") == 12


def test_plan_that_needs_more_than_the_disk_has_raises(tmp_path: Path) -> None:
    training = TrainingEstimate(1, 1, 1.0, 1.0, "stated", 1, 1)
    plan = Plan(steps=(), disk_bytes=10**18, data_memory_bytes=1, training=training)
    with pytest.raises(DiskSpaceError, match="cannot hold this run") as caught:
        plan.require_disk(tmp_path / "not" / "there" / "yet")
    assert caught.value.where == tmp_path
    assert "free" in str(caught.value.found)


def test_settings_text_has_one_line_per_setting() -> None:
    text = settings_text(resolve("demo", kind=PretrainConfig))
    assert "train.learning_rate = 0.004" in text.splitlines()
    assert "preset = 'demo'" in text.splitlines()
