"""Flow pretrain: from raw shards to a registered base model.

prefect deployment run pretrain/sample
python -m flows.pretrain --preset demo --set train.steps=200 --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.command_line import run_command
from flows.configured import Session, configured_flow
from flows.prepare import Corpus, prepare_corpus
from flows.presets import PretrainConfig
from flows.scoring import Measured, check_with_harness, measure_model
from model.artifact import Artifact
from tasks.export_model import ExportModel, export_model
from tasks.outcome import report_outcome
from tasks.pipeline import Pipeline
from tasks.promote_model import promote_if_no_worse
from tasks.register_model import register_model
from tasks.reports import (
    report_checkpoints,
    report_data,
    report_harness,
    report_page,
    report_scores,
    report_summary,
    report_training,
)
from tasks.train_model import TrainModel, train_model

BASE = "base"  # name of the artifacts; what the model is registered as changes none of them


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining run makes."""

    corpus: Corpus
    trained: Artifact
    measured: Measured
    exported: Artifact
    harness: Artifact | None


def pretrain_model(pipeline: Pipeline, config: PretrainConfig) -> Pretrained:
    """Walk the DAG from raw shards to an exported model."""
    corpus = prepare_corpus(pipeline, config)
    trained = pipeline.add(
        train_model,
        BASE,
        config=TrainModel(
            model=config.model,
            train=config.train,
            sample_prompts=config.score.prompts,
            tracking_parent=pipeline.tracking_run_id,
        ),
        inputs={
            "tokenizer": corpus.tokenizer,
            "training": corpus.training,
            "validation": corpus.validation,
        },
    )
    measured = measure_model(
        pipeline,
        BASE,
        config,
        model=trained,
        tokenizer=corpus.tokenizer,
        validation=corpus.validation,
        documents=corpus.held_out,
    )
    exported = pipeline.add(
        export_model,
        BASE,
        config=ExportModel(export=config.export),
        inputs={"model": trained, "tokenizer": corpus.tokenizer, "scores": measured.all},
    )
    harness = check_with_harness(pipeline, BASE, config, exported=exported, measured=measured)
    return Pretrained(corpus, trained, measured, exported, harness)


@configured_flow(PretrainConfig, dag=pretrain_model)
def pretrain(session: Session, config: PretrainConfig) -> None:
    """Make a base model of a preset: raw shards in, a registered model out."""
    made = pretrain_model(session.pipeline, config)
    report_data(session.tracking, session.manifests())
    report_page(session.tracking, made.corpus.report, session.store)
    report_training(session.tracking, made.trained, session.store)
    report_outcome(
        session.tracking,
        made.trained,
        expected=session.plan.training_of(made.trained),
        store=session.store,
    )
    report_scores(session.tracking, made.measured.all, session.store)
    report_checkpoints(session.tracking, made.measured.checkpoints, session.store)
    report_harness(session.tracking, made.harness, session.store)
    registered = register_model(
        session.tracking,
        made.exported,
        scores=made.measured.all,
        registry=config.registry,
        store=session.store,
    )
    promote_if_no_worse(session.tracking, registered, registry=config.registry)
    report_summary(
        session.tracking,
        session.manifests(),
        scores=made.measured.all,
        report=made.corpus.report,
        store=session.store,
    )


if __name__ == "__main__":
    run_command(pretrain, PretrainConfig, pretrain_model)
