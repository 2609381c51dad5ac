"""The stages of the quality model end to end, their keys, and their place in the DAG."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from flows.prepare import prepare_corpus
from flows.settings.config import PrepareConfig
from flows.settings.overrides import all_optional
from model.core.artifact import Artifact
from model.core.errors import (
    ArtifactError,
    CorpusError,
)
from model.core.outputs import DropCounts
from model.core.store import ArtifactStore
from tasks.config.corpus import QualityModelConfig, SourceConfig
from tasks.config.run import RunConfig
from tasks.engine.pipeline import Pipeline
from tasks.engine.stage import ResourceShare, Stage
from tasks.reporting.funnel import funnel
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.score_quality import ScoreQuality, ScoreQualityOutputs, score_quality
from tasks.stages.select_quality import (
    SelectQuality,
    SelectQualityOutputs,
    select_quality,
)
from tasks.stages.train_quality_model import TrainQualityModelOutputs, labelled_documents
from tasks.stages.train_quality_model import train_quality_model as training_stage
from tests.support.quality_labels import (
    local,
    make_labelled,
    make_text,
    write_part,
    write_removed,
)
from tests.support.small_pipeline import make, make_small_pipeline

SHARE = ResourceShare(threads=2, memory_bytes=500_000_000)


def run_stage(store: ArtifactStore, stage: Stage, name: str, *, config, inputs) -> Artifact:
    derivation = stage.derive(name, config=config, inputs=inputs)
    store.build(derivation, lambda work: stage.build(work, config, SHARE))
    return derivation.artifact


def test_stages_end_to_end_tell_planted_good_from_bad(tmp_path):
    store = ArtifactStore(tmp_path / "data")
    config = local(make_labelled(tmp_path / "labels.parquet", count=1_500), max_domain_frac=0.9)
    learning = labelled_documents(config, data_seed=1, store=store)
    model = run_stage(store, training_stage, "quality", config=learning, inputs={})
    manifest = store.read_manifest(model)
    assert TrainQualityModelOutputs.facts_of(manifest).heldout_auc > 0.95
    assert TrainQualityModelOutputs.counts_of(manifest).num_labelled == 1_500
    assert (
        TrainQualityModelOutputs.counts_of(manifest).num_trained
        + TrainQualityModelOutputs.counts_of(manifest).num_heldout
        == 1_500
    )

    chance = random.Random(9)
    good = [chance.random() < 0.5 for _ in range(300)]
    texts = [make_text(chance, good=label) for label in good]
    part = make(store, FilterDocumentsOutputs, "part-0").artifact
    write_part(store.path(part), texts, file="f")
    clusters = make(store, DuplicateClustersOutputs, "corpus").artifact
    write_removed(DuplicateClustersOutputs.of(store, clusters).removed, [("f", 0), ("f", 2)])
    scores = run_stage(
        store, score_quality, "part-0", config=ScoreQuality(), inputs={"part": part, "model": model}
    )
    chosen = run_stage(
        store,
        select_quality,
        "corpus",
        config=SelectQuality(quality_model=config),
        inputs={"scores": [scores], "removed": clusters},
    )
    found = pq.read_table(ScoreQualityOutputs.of(store, scores).scores).to_pylist()
    assert [row["row"] for row in found] == list(range(0, 600, 2))
    assert roc_auc_score(good, [row["score"] for row in found]) > 0.95
    removed = pq.read_table(SelectQualityOutputs.of(store, chosen).removed).to_pylist()
    low = [row["row"] for row in found if row["score"] < 0.5 and row["row"] > 2]
    assert [row["row"] for row in removed] == low
    counts = SelectQualityOutputs.of(store, chosen).counts
    assert counts.num_in == 298 == counts.num_kept + counts.dropped["low_quality"]
    assert counts.dropped["low_quality"] == len(removed)


def test_training_on_noise_is_refused(tmp_path):
    store = ArtifactStore(tmp_path / "data")
    path = make_labelled(tmp_path / "labels.parquet", count=400, noise=2.0)
    table = pq.read_table(path)
    shuffled = np.random.default_rng(1).permutation(table["score"].to_numpy())
    pq.write_table(table.set_column(1, "score", pa.array(shuffled)), path)
    learning = labelled_documents(local(path), data_seed=1, store=store)
    with pytest.raises(CorpusError, match=r"cannot tell good documents(.|\n)*min_auc"):
        run_stage(store, training_stage, "quality", config=learning, inputs={})


def test_keys_depend_on_labels_and_on_what_each_stage_uses(tmp_path):
    path = make_labelled(tmp_path / "labels.parquet", count=50)
    store = ArtifactStore(tmp_path / "data")

    def training_key(**settings):
        config = labelled_documents(local(path, **settings), data_seed=1, store=store)
        return training_stage.derive("quality", config=config, inputs={}).key

    def choice_key(**settings):
        config = SelectQuality(quality_model=local(path, **settings))
        return select_quality.derive("corpus", config=config, inputs={}).key

    assert training_key() == training_key(min_score=0.9, max_domain_frac=0.1, min_auc=0.9)
    assert training_key() != training_key(epochs=9)
    before = training_key()
    make_labelled(path, count=51)
    assert training_key() != before
    assert choice_key() == choice_key(epochs=9, top_frac=0.1, max_removed_frac=0.5)
    assert len({choice_key(), choice_key(min_score=0.9), choice_key(max_domain_frac=0.5)}) == 3


def planned(tmp_path, **settings):
    """Return stage and key of every step that prepare would take, without taking any."""
    pipeline = Pipeline(ArtifactStore(tmp_path / "data"), RunConfig())
    quality = QualityModelConfig(**settings)
    config = PrepareConfig(preset="demo", source=SourceConfig(kind="demo"), quality_model=quality)
    prepare_corpus(pipeline, config)
    return {(step.artifact.stage, step.artifact.name): key for key, step in pipeline.steps.items()}


def test_prepare_has_the_stages_only_when_switched_on_and_else_no_other_key(tmp_path):
    path = make_labelled(tmp_path / "labels.parquet", count=50)
    without = planned(tmp_path, min_score=0.9, epochs=7)
    chosen = planned(tmp_path, **local(path).model_dump())
    names = {"train_quality_model", "score_quality", "select_quality"}
    assert {stage for stage, _ in chosen} - {stage for stage, _ in without} == names
    assert sum(stage == "score_quality" for stage, _ in chosen) == 3
    changed = {step for step, key in without.items() if chosen[step] != key}
    assert changed == {("write_shards", "training"), ("report_corpus", "corpus")}


def test_unknown_setting_is_named_with_its_group():
    with pytest.raises(ValidationError, match=r"nearest is 'quality_model\.min_score'"):
        all_optional(QualityModelConfig).model_validate({"min_scor": 0.3})


def test_funnel_continues_from_duplicates_to_low_quality(tmp_path):
    small = make_small_pipeline(tmp_path)
    chosen = make(
        small.store,
        SelectQualityOutputs,
        "corpus",
        counts=DropCounts(num_in=67, num_kept=60, low_quality=5, domain_cap=2),
    )
    with pytest.raises(ArtifactError, match="num_docs = 60, what select_quality kept"):
        funnel([*small.manifests.values(), chosen])
    training = small.manifests["shards-training"]
    shorter = training.model_copy(update={"counts": training.counts | {"num_docs": 60}})
    others = [item for item in small.manifests.values() if item is not training]
    found = funnel([*others, shorter, chosen])
    assert found.low_quality == {"low_quality": 5, "domain_cap": 2}
    shown = {(row.stage, row.what): row.documents for row in found.rows()}
    assert shown["select_quality", "domain_cap"] == -2
