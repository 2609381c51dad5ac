"""Flow sweep: a ladder of trainings on one corpus, and the curve of their score over compute.

prefect deployment run sweep/ladder
python -m flows.sweep --preset demo --dry-run
"""

from __future__ import annotations

from flows.settings.cli import read_command
from flows.settings.config import LadderConfig

COMMAND = read_command(LadderConfig, __name__, __doc__)  # before what is slow to import

from dataclasses import dataclass

from flows.configured import ConfiguredFlow, Session, run_command
from flows.prepare import PreparedCorpus, prepare_corpus
from flows.settings.resolve import ResolvedRun
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.planning.ladder import next_rung
from tasks.reporting.ladder import report_ladder
from tasks.reporting.run import report_data, report_page
from tasks.stages.fit_scaling import FitScaling, fit_scaling
from tasks.stages.train_model import TrainModel, train_model

LADDER = "ladder"


@dataclass(frozen=True)
class Ladder:
    """What a sweep makes."""

    corpus: PreparedCorpus
    trained: tuple[Artifact, ...]
    fit: Artifact


def train_ladder(pipeline: Pipeline, run: ResolvedRun[LadderConfig]) -> Ladder:
    """Walk the DAG from raw shards through every training to the curve."""
    corpus = prepare_corpus(pipeline, run.config)
    vocab_size = run.config.tokenizer.vocab_size
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
        for rung in run.ladder
    )
    size, tokens = next_rung(run.config.sweep, run.ladder, vocab_size=vocab_size) or (None, 0)
    fit = pipeline.add(
        fit_scaling,
        LADDER,
        config=FitScaling(vocab_size=vocab_size, next_size=size, next_tokens=tokens),
        inputs={"trained": trained, "validation": corpus.validation},
    )
    return Ladder(corpus, trained, fit)


def run_sweep(session: Session, run: ResolvedRun[LadderConfig]) -> None:
    """Train several sizes on the corpus of a preset and fit what compute buys."""
    made = train_ladder(session.pipeline, run)
    report_data(session.tracking, session.manifests())
    report_page(session.tracking, made.corpus.report, session.store)
    report_ladder(session.tracking, made.trained, made.fit, plan=session.plan, store=session.store)


SWEEP = ConfiguredFlow(LadderConfig, dag=train_ladder, body=run_sweep)
sweep = SWEEP.prefect_flow()

if COMMAND:
    run_command(SWEEP, COMMAND)
