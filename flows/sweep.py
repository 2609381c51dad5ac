"""Flow sweep: a ladder of trainings on one corpus, and the curve of their score over compute.

prefect deployment run sweep/ladder
python -m flows.sweep --preset demo --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.configured import Session, configured_flow
from flows.prepare import Corpus, prepare_corpus
from flows.settings.cli import run_command
from flows.settings.presets import LadderConfig
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.planning.ladder import next_rung, rungs
from tasks.reporting.ladder import report_ladder
from tasks.reporting.run import report_data, report_page
from tasks.stages.fit_scaling import FitScaling, fit_scaling
from tasks.stages.train_model import TrainModel, train_model

LADDER = "ladder"


@dataclass(frozen=True)
class Ladder:
    """What a sweep makes."""

    corpus: Corpus
    trained: tuple[Artifact, ...]
    fit: Artifact


def train_ladder(pipeline: Pipeline, config: LadderConfig) -> Ladder:
    """Walk the DAG from raw shards through every training to the curve."""
    corpus = prepare_corpus(pipeline, config)
    vocab_size = config.tokenizer.vocab_size
    ladder = rungs(config.sweep, model=config.model, train=config.train, vocab_size=vocab_size)
    trained = tuple(
        pipeline.add(
            train_model,
            rung.name,
            config=TrainModel(
                model=rung.model, train=rung.train, tracking_parent=pipeline.tracking_run_id
            ),
            inputs={
                "tokenizer": corpus.tokenizer,
                "training": corpus.training,
                "validation": corpus.validation,
            },
        )
        for rung in ladder
    )
    size, tokens = next_rung(config.sweep, ladder, vocab_size=vocab_size) or (None, 0)
    fit = pipeline.add(
        fit_scaling,
        LADDER,
        config=FitScaling(vocab_size=vocab_size, next_size=size, next_tokens=tokens),
        inputs={"trained": trained, "validation": corpus.validation},
    )
    return Ladder(corpus, trained, fit)


@configured_flow(LadderConfig, dag=train_ladder)
def sweep(session: Session, config: LadderConfig) -> None:
    """Train several sizes on the corpus of a preset and fit what compute buys."""
    made = train_ladder(session.pipeline, config)
    report_data(session.tracking, session.manifests())
    report_page(session.tracking, made.corpus.report, session.store)
    report_ladder(session.tracking, made.trained, made.fit, plan=session.plan, store=session.store)


if __name__ == "__main__":
    run_command(sweep, LadderConfig, train_ladder)
