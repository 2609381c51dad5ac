"""Flow pretrain: from raw shards to a registered base model, and to a chat model if asked for.

prefect deployment run pretrain/sample
python -m flows.pretrain --preset demo --set train.steps=200 --dry-run
"""

from __future__ import annotations

from flows.settings.cli import read_command
from flows.settings.config import PretrainConfig

COMMAND = read_command(PretrainConfig, __name__, __doc__)  # before what is slow to import

from dataclasses import dataclass

from flows.chat_data import read_chat_data
from flows.configured import ConfiguredFlow, Session, run_command
from flows.prepare import PreparedCorpus, prepare_corpus
from flows.results import report_chat_model, report_model
from flows.settings.resolve import ResolvedRun
from flows.training import (
    BASE,
    ChatModel,
    FinishedModel,
    evaluate_and_export,
    make_chat_model,
    train_base,
)
from tasks.engine.pipeline import Pipeline
from tasks.planning.base_checkpoint import BaseCheckpoint
from tasks.reporting.run import report_data, report_page, report_summary


@dataclass(frozen=True)
class Pretrained:
    """A corpus, and the base model made of it."""

    corpus: PreparedCorpus
    base: BaseCheckpoint
    model: FinishedModel


def pretrain_base(pipeline: Pipeline, run: ResolvedRun[PretrainConfig]) -> Pretrained:
    """Walk the DAG from raw shards to an exported base model.

    read_chats
    download -> select_validation, filter_documents -> signatures -> duplicate_clusters
             -> train_tokenizer -> tokenise -> write_shards -> report_corpus
    train_model -> score_model -> judge_texts, export_model
    """
    config = run.config
    chat_data = read_chat_data(pipeline, config) if config.then_finetune else []
    corpus = prepare_corpus(pipeline, config)
    for item in chat_data:  # hours of training are not spent before a broken conversation is known
        pipeline.wait(item)
    base = train_base(pipeline, config, corpus)
    model = evaluate_and_export(
        pipeline,
        config,
        BASE,
        trained=base.trained,
        tokenizer=corpus.tokenizer,
        validation=corpus.validation,
        documents=corpus.held_out,
    )
    return Pretrained(corpus, base, model)


def pretrain_models(
    pipeline: Pipeline, run: ResolvedRun[PretrainConfig]
) -> tuple[Pretrained, ChatModel | None]:
    """Walk the DAG to all models of a run."""
    made = pretrain_base(pipeline, run)
    if not run.config.then_finetune:
        return made, None
    return made, make_chat_model(pipeline, run.config, made.base)


def run_pretrain(session: Session, run: ResolvedRun[PretrainConfig]) -> None:
    """Make a base model of a preset: raw shards in, a registered model out, then a chat model."""
    config = run.config
    made = pretrain_base(session.pipeline, run)
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
        with session.nested("finetune", config) as nested:
            chat = make_chat_model(nested.pipeline, config, made.base)
            report_chat_model(nested, chat, registry=config.finetune.registry)


PRETRAIN = ConfiguredFlow(PretrainConfig, dag=pretrain_models, body=run_pretrain)
pretrain = PRETRAIN.prefect_flow()

if COMMAND:
    run_command(PRETRAIN, COMMAND)
