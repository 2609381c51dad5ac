"""flows.evaluation: which stages measure a model, and what each is given."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.evaluation import check_with_harness, measure_model
from flows.settings.presets import PretrainConfig
from flows.settings.resolve import resolve
from flows.training import finish_model
from model.core.store import ArtifactStore
from model.data.items import SCHEMA
from tasks.config.corpus import RunConfig
from tasks.engine.pipeline import Pipeline, Step
from tasks.stages.harness_scores import HarnessScores
from tests.support.small_pipeline import SmallPipeline, make_small_pipeline


@pytest.fixture
def small(tmp_path: Path) -> SmallPipeline:
    return make_small_pipeline(tmp_path / "data")


def planned(small: SmallPipeline, **settings: object) -> dict[str, list[Step]]:
    """Return the steps that measure a model, by stage; nothing runs."""
    asked = {name: settings.pop(name) for name in ("style", "loss_on") if name in settings}
    config = resolve("demo", kind=PretrainConfig, evaluation=settings)
    pipeline = Pipeline(ArtifactStore(small.store.root), RunConfig())
    measured = measure_model(
        pipeline,
        "base",
        config,
        model=small.artifact("train_model"),
        tokenizer=small.artifact("train_tokenizer"),
        validation=small.artifact("shards-validation"),
        documents=small.artifact("select_validation"),
        **asked,
    )
    exported = small.artifact("export_model")
    check_with_harness(pipeline, "base", config, exported=exported, measured=measured)
    found: dict[str, list[Step]] = {}
    for step in pipeline.steps.values():
        found.setdefault(step.stage.name, []).append(step)
    return found


def test_measuring_without_sets_writes_and_judges_texts(small: SmallPipeline) -> None:
    steps = planned(small)
    assert list(steps) == ["generation_prompts", "score_model", "judge_texts"]
    (scores,) = steps["score_model"]
    assert set(scores.derivation.inputs) == {"model", "tokenizer", "validation", "prompts"}


def test_measuring_without_texts_scores_alone(small: SmallPipeline) -> None:
    assert list(planned(small, num_generations=0, num_questions=0)) == ["score_model"]


def test_measuring_with_everything(small: SmallPipeline, tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "blimp.parquet")
    steps = planned(
        small,
        sets={"blimp": str(tmp_path / "blimp.parquet")},
        checkpoints=("best", 20),
        harness="on",
    )
    assert set(steps) == {
        "scored_items", "generation_prompts", "score_model", "judge_texts", "harness_scores",
    }  # fmt: skip
    final, *checkpoints = steps["score_model"]
    assert [step.derivation.config["checkpoint"] for step in checkpoints] == ["best", 20]
    assert "prompts" not in checkpoints[0].derivation.inputs
    texts = [step.derivation.config["score"]["prompts"] for step in steps["score_model"]]
    assert [bool(item) for item in texts] == [True, False, False]
    (harness,) = steps["harness_scores"]
    assert harness.derivation.inputs["scores"] == (final.artifact,)
    assert harness.derivation.inputs["items"] == final.derivation.inputs["items"]
    assert harness.derivation.config == HarnessScores.here().semantic()


def test_key_of_the_harness_follows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"lm-eval": "0.4.13", "transformers": "5.1"}
    monkeypatch.setattr("tasks.stages.harness_scores.metadata.version", versions.__getitem__)
    assert HarnessScores.here().semantic() == {"versions": versions}


def test_harness_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.stages.harness_scores.PACKAGES", ("no-such-package-of-ours",))
    assert HarnessScores.here().versions == {"no-such-package-of-ours": None}


def test_chat_model_answers_messages_and_reads_no_documents(small: SmallPipeline) -> None:
    steps = planned(small, style="chat", loss_on="mask")
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
    config = resolve("demo", kind=PretrainConfig)
    pipeline = Pipeline(ArtifactStore(small.store.root), RunConfig())
    made = finish_model(
        pipeline,
        config,
        "base",
        trained=small.artifact("train_model"),
        tokenizer=small.artifact("train_tokenizer"),
        validation=small.artifact("shards-validation"),
        documents=small.artifact("select_validation"),
        score=config.score,
        style="text",
    )
    assert made.measured.judged in made.measured.all
    (exporting,) = (step for step in pipeline.steps.values() if step.stage.name == "export_model")
    assert exporting.derivation.inputs["scores"] == (made.measured.scores,)
