"""Flow finetune: from a base model and conversations to a registered chat model.

prefect deployment run finetune/chat
python -m flows.finetune --preset demo
python -m flows.finetune --preset full --set finetune.base=models:/llm-base@champion
"""

from __future__ import annotations

from flows.settings.cli import read_command
from flows.settings.config import ChatModelConfig

COMMAND = read_command(ChatModelConfig, __name__, __doc__)  # before what is slow to import

from flows.configured import ConfiguredFlow, Session, run_command
from flows.prepare import prepare_corpus
from flows.results import report_chat_model
from flows.settings.resolve import ResolvedRun
from flows.training import ChatModel, make_chat_model, train_base
from tasks.engine.pipeline import Pipeline


def finetune_model(pipeline: Pipeline, run: ResolvedRun[ChatModelConfig]) -> ChatModel:
    """Walk the DAG from conversations, and the base model's own DAG if none is named."""
    base = run.base
    if base is None:
        corpus = prepare_corpus(pipeline, run.config)
        base = train_base(pipeline, run.config, corpus)
    return make_chat_model(pipeline, run.config, base)


def run_finetune(session: Session, run: ResolvedRun[ChatModelConfig]) -> None:
    """Make a chat model of a base model: conversations in, a registered model out."""
    made = finetune_model(session.pipeline, run)
    report_chat_model(session, made, registry=run.config.finetune.registry)


FINETUNE = ConfiguredFlow(ChatModelConfig, dag=finetune_model, body=run_finetune)
finetune = FINETUNE.prefect_flow()

if COMMAND:
    run_command(FINETUNE, COMMAND)
