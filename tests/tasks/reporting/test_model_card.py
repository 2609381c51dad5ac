"""tasks.reporting.model_card: what a model was made from, as far as it is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from model.config.outputs import ScoreModelFacts, ScoreModelOutputs
from model.config.trained_model import SamplingConfig
from tasks.reporting.model_card import Lineage, model_card
from tasks.stages.judge_texts import JudgeTextsFacts, JudgeTextsOutputs
from tests.support.small_pipeline import SmallPipeline, filled, make, make_small_pipeline


@pytest.fixture
def small(tmp_path: Path) -> SmallPipeline:
    return make_small_pipeline(tmp_path, salt="card")


def card_of(
    small: SmallPipeline, *, lineage: Lineage | None = None, with_scores: bool = True
) -> str:
    lineage = lineage or Lineage.of(small.manifests["train_model"], small.store)
    scores = [small.manifests["score_model"]] if with_scores else []
    return model_card(lineage, scores=scores, sampling=SamplingConfig())


def test_card_tells_source_funnel_training_scores_and_limits(small: SmallPipeline) -> None:
    everything = tuple(small.store.manifests())
    card = card_of(small, lineage=Lineage(small.manifests["train_model"], everything))
    assert "- demo: made by this project" in card
    assert "| filter_documents | language | -11 | -11.0 |" in card
    assert "6,700 tokens for training." in card
    assert "- steps: 30" in card
    assert "| score_model: bits_per_byte | 1.0625 |" in card
    assert "- repetition_penalty: 1.1" in card
    assert "## Limits" in card


def test_card_begins_with_metadata_that_the_hub_reads(small: SmallPipeline) -> None:
    _, header, _ = card_of(small).split("---\n", 2)
    assert yaml.safe_load(header)["pipeline_tag"] == "text-generation"


def test_card_depends_on_the_lineage_alone(small: SmallPipeline, tmp_path: Path) -> None:
    moved = make_small_pipeline(tmp_path / "elsewhere", salt="card")
    assert card_of(small) == card_of(moved)
    assert str(tmp_path) not in card_of(small)


def test_card_without_scores_has_none(small: SmallPipeline) -> None:
    assert "score_model" not in card_of(small, with_scores=False)


def test_card_of_a_pruned_lineage_says_what_is_left(small: SmallPipeline) -> None:
    shutil.rmtree(small.store.root / "download")
    card = card_of(small)
    assert "made by this project" not in card
    assert "no longer known" in card
    assert "- steps: 30" in card


def test_card_shows_every_measure_and_says_what_is_missing(small: SmallPipeline) -> None:
    facts = JudgeTextsFacts(
        grammar_accepted=0.875, absent={"parser_accepted": "there is no link-parser"}
    )
    judged = make(small.store, JudgeTextsOutputs, "base", facts=facts)
    scored = make(
        small.store,
        ScoreModelOutputs,
        "other",
        facts=filled(ScoreModelFacts, extras={"lambada_perplexity": 1.5e17}),
    )
    lineage = Lineage.of(small.manifests["train_model"], small.store)
    card = model_card(lineage, scores=[scored, judged], sampling=SamplingConfig())
    assert "| judge_texts: grammar_accepted | 0.8750 |" in card
    assert "| score_model: lambada_perplexity | 1.5e+17 |" in card
    assert "Not measured: parser_accepted, because there is no link-parser." in card
