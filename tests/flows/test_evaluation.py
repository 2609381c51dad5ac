"""flows.evaluation and evaluate_and_export: which stages are added, and their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.settings.config import PretrainConfig
from flows.training import evaluate_and_export
from model.config.trained_model import Style
from model.core.store import ArtifactStore
from model.data.items import SCHEMA
from tasks.config.run import RunConfig
from tasks.engine.pipeline import Pipeline, Step
from tests.support.settings import resolved_config
from tests.support.small_pipeline import SmallPipeline, make_small_pipeline

Steps = dict[str, list[Step]]


@pytest.fixture
def small(tmp_path: Path) -> SmallPipeline:
    return make_small_pipeline(tmp_path / "data")


def planned(small: SmallPipeline, *, style: Style = "text", **settings: Any) -> Steps:
    """Return the steps that measure and export a model, by stage; nothing runs."""
    config = resolved_config("demo", kind=PretrainConfig, evaluation=settings)
    pipeline = Pipeline(ArtifactStore(small.store.root), RunConfig())
    evaluate_and_export(
        pipeline,
        config,
        "base",
        trained=small.artifact("train_model"),
        tokenizer=small.artifact("train_tokenizer"),
        validation=small.artifact("shards-validation"),
        documents=small.artifact("select_validation"),
        style=style,
    )
    found: Steps = {}
    for step in pipeline.steps.values():
        found.setdefault(step.stage.name, []).append(step)
    return found


def test_measuring_without_sets_writes_and_judges_texts(small: SmallPipeline) -> None:
    steps = planned(small)
    assert list(steps) == ["generation_prompts", "score_model", "judge_texts", "export_model"]
    (scores,) = steps["score_model"]
    assert set(scores.derivation.inputs) == {"model", "tokenizer", "validation", "prompts"}


def test_measuring_without_texts_scores_alone(small: SmallPipeline) -> None:
    steps = planned(small, num_generations=0, num_questions=0)
    assert list(steps) == ["score_model", "export_model"]


def test_measuring_with_everything(small: SmallPipeline, tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "blimp.parquet")
    steps = planned(
        small,
        sets={"blimp": str(tmp_path / "blimp.parquet")},
        checkpoints=("best", 20),
    )
    assert set(steps) == {
        "scored_items", "generation_prompts", "score_model", "judge_texts", "export_model",
    }  # fmt: skip
    final, *checkpoints = steps["score_model"]
    assert [step.derivation.config["checkpoint"] for step in checkpoints] == ["best", 20]
    assert "prompts" not in checkpoints[0].derivation.inputs
    texts = [step.derivation.config["score"]["prompts"] for step in steps["score_model"]]
    assert [bool(item) for item in texts] == [True, False, False]
    assert final.derivation.inputs["items"] == checkpoints[0].derivation.inputs["items"]


def test_chat_model_answers_messages_and_reads_no_documents(small: SmallPipeline) -> None:
    steps = planned(small, style="chat")
    (prompts,), (scores,) = steps["generation_prompts"], steps["score_model"]
    assert prompts.derivation.inputs == {}
    assert prompts.derivation.config["chat_prompts"][0] == "Tell me a story about Tom."
    assert scores.derivation.config["loss_on"] == "mask"
    assert scores.derivation.config["style"] == "chat"


def test_setting_of_another_style_changes_no_key(small: SmallPipeline) -> None:
    (before,) = planned(small)["score_model"]
    (after,) = planned(small, chat_prompts=("Hi",))["score_model"]
    assert before.artifact == after.artifact
    (other,) = planned(small, num_generations=7)["score_model"]
    assert other.artifact != before.artifact


def test_export_depends_on_scores_and_on_no_judgement(small: SmallPipeline) -> None:
    steps = planned(small)
    (scores,), (exporting,) = steps["score_model"], steps["export_model"]
    assert set(exporting.derivation.inputs) == {"model", "tokenizer", "scores"}
    assert exporting.derivation.inputs["scores"] == (scores.artifact,)
