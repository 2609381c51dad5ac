"""Flow pretrain: from raw shards to a registered base model, and to a chat model if asked for.

prefect deployment run pretrain/sample
python -m flows.pretrain --preset demo --set train.steps=200 --dry-run
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.configured import Session, configured_flow
from flows.prepare import Corpus
from flows.settings.cli import run_command
from flows.settings.presets import PretrainConfig
from flows.training import (
    BASE,
    ChatModel,
    TrainedModel,
    finetune_base,
    finish_model,
    read_conversations,
    report_chat_model,
    report_model,
    train_base,
)
from tasks.engine.pipeline import Pipeline
from tasks.planning.base_checkpoint import BaseModel
from tasks.reporting.run import report_data, report_page, report_summary


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining run makes."""

    corpus: Corpus
    base: BaseModel
    model: TrainedModel


def pretrain_model(pipeline: Pipeline, config: PretrainConfig) -> Pretrained:
    """Walk the DAG from raw shards to an exported base model."""
    first = read_conversations(pipeline, config) if config.then_finetune else ()
    corpus, base = train_base(pipeline, config, first=first)
    model = finish_model(
        pipeline,
        config,
        BASE,
        trained=base.trained,
        tokenizer=corpus.tokenizer,
        validation=corpus.validation,
        documents=corpus.held_out,
        score=config.score,
        style="text",
    )
    return Pretrained(corpus, base, model)


def pretrain_models(
    pipeline: Pipeline, config: PretrainConfig
) -> tuple[Pretrained, ChatModel | None]:
    """Walk the DAG to all models of a run."""
    made = pretrain_model(pipeline, config)
    return made, finetune_base(pipeline, config, made.base) if config.then_finetune else None


@configured_flow(PretrainConfig, dag=pretrain_models)
def pretrain(session: Session, config: PretrainConfig) -> None:
    """Make a base model of a preset: raw shards in, a registered model out, then a chat model."""
    made = pretrain_model(session.pipeline, config)
    report_data(session.tracking, session.manifests())
    report_page(session.tracking, made.corpus.report, session.store)
    report_model(session, made.model, registry=config.registry)
    report_summary(
        session.tracking,
        session.manifests(),
        scores=made.model.measured.all,
        report=made.corpus.report,
        store=session.store,
    )
    if config.then_finetune:
        with session.part("finetune", config) as part:
            chat = finetune_base(part.pipeline, config, made.base)
            report_chat_model(part, chat, registry=config.finetune.registry)


if __name__ == "__main__":
    run_command(pretrain, PretrainConfig, pretrain_models)
