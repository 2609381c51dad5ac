"""Flow finetune: from a base model and conversations to a registered chat model.

prefect deployment run finetune/chat
python -m flows.finetune --preset demo
python -m flows.finetune --preset full --set finetune.base=models:/llm-base@champion
"""

from __future__ import annotations

from flows.configured import Session, configured_flow
from flows.settings.cli import run_command
from flows.settings.presets import ChatModelConfig
from flows.training import ChatModel, finetune_base, report_chat_model, train_base
from tasks.engine.pipeline import Pipeline
from tasks.planning.base_checkpoint import find_base


def finetune_model(pipeline: Pipeline, config: ChatModelConfig) -> ChatModel:
    """Walk the DAG from conversations, and the base model's own DAG if none is named."""
    if config.finetune.base:
        base = find_base(config.finetune.base, pipeline.store)
    else:
        _, base = train_base(pipeline, config)
    return finetune_base(pipeline, config, base)


@configured_flow(ChatModelConfig, dag=finetune_model)
def finetune(session: Session, config: ChatModelConfig) -> None:
    """Make a chat model of a base model: conversations in, a registered model out."""
    made = finetune_model(session.pipeline, config)
    report_chat_model(session, made, registry=config.finetune.registry)


if __name__ == "__main__":
    run_command(finetune, ChatModelConfig, finetune_model)
