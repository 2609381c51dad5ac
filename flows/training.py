"""The part of the DAG that trains: base model, chat model, preference tuning; scores and exports.

Stages are added in the order in which they run; ``flows.results`` reports what came of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.chat_data import ChatShards, chat_shards, preference_shards
from flows.evaluation import Measured, measure_model
from flows.prepare import PreparedCorpus
from flows.settings.config import ChatModelConfig
from model.config.trained_model import Style
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.planning.base_checkpoint import BaseCheckpoint
from tasks.stages.export_model import ExportModel, export_model
from tasks.stages.score_model import ScoreModel
from tasks.stages.talk_to_model import TalkToModel, talk_to_model
from tasks.stages.train_model import TrainModel, train_model

BASE = "base"  # names of the artifacts, whatever a model is registered as
CHAT = "chat"
PREFERRED = "preferred"


@dataclass(frozen=True)
class FinishedModel:
    """A trained model, its scores, and the export that other runtimes load."""

    trained: Artifact
    measured: Measured
    exported: Artifact


@dataclass(frozen=True)
class ChatModel:
    """A finished chat model, and a conversation with it."""

    # The training on conversations; ``model`` may be trained on preferences after it.
    finetuned: Artifact
    model: FinishedModel
    conversation: Artifact


def train_base(
    pipeline: Pipeline, config: ChatModelConfig, corpus: PreparedCorpus
) -> BaseCheckpoint:
    """Train a base model on the shards of a corpus."""
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
    return BaseCheckpoint(
        trained=trained,
        tokenizer=corpus.tokenizer,
        pretraining=(corpus.training,),
        model=config.model,
        vocab_size=config.tokenizer.vocab_size,
    )


def make_chat_model(pipeline: Pipeline, config: ChatModelConfig, base: BaseCheckpoint) -> ChatModel:
    """Fine-tune, evaluate and export a chat model, and record a conversation with it."""
    chats = chat_shards(pipeline, config, base)
    finetuned = train_chat(pipeline, config, base, chats)
    trained = finetuned
    if config.preference.method == "dpo":
        trained = train_preferences(pipeline, config, base, finetuned)
    model = evaluate_and_export(
        pipeline,
        config,
        CHAT,
        trained=trained,
        tokenizer=base.tokenizer,
        validation=chats.validation,
        style="chat",
    )
    conversation = pipeline.add(
        talk_to_model,
        CHAT,
        config=TalkToModel(talk=config.finetune.talk),
        inputs={"exported": model.exported},
    )
    return ChatModel(finetuned, model, conversation)


def train_chat(
    pipeline: Pipeline, config: ChatModelConfig, base: BaseCheckpoint, chats: ChatShards
) -> Artifact:
    """Fine-tune a base model on conversations, mixed with a share of pretraining text."""
    return pipeline.add(
        train_model,
        CHAT,
        config=TrainModel(
            model=base.model,
            train=config.finetune.train,
            repeats=chats.repeats,
            pretraining_frac=config.chat.pretraining_frac,
            style="chat",
            sample_prompts=config.chat.prompts,
            tracking_parent=pipeline.tracking_run_id,
        ),
        inputs={
            "tokenizer": base.tokenizer,
            "training": chats.training,
            "validation": chats.validation,
            "init_from": base.trained,
            "pretraining": base.pretraining if config.chat.pretraining_frac else (),
        },
    )


def train_preferences(
    pipeline: Pipeline, config: ChatModelConfig, base: BaseCheckpoint, finetuned: Artifact
) -> Artifact:
    """Tune a chat model on pairs of answers (DPO)."""
    pairs = preference_shards(pipeline, config, base)
    return pipeline.add(
        train_model,
        PREFERRED,
        config=TrainModel(
            model=base.model,
            train=config.preference.train,
            repeats=pairs.repeats,
            dpo=config.preference.dpo,
            style="chat",
            sample_prompts=config.chat.prompts,
            tracking_parent=pipeline.tracking_run_id,
        ),
        inputs={
            "tokenizer": base.tokenizer,
            "training": pairs.training,
            "validation": pairs.validation,
            "init_from": finetuned,
        },
    )


def evaluate_and_export(
    pipeline: Pipeline,
    config: ChatModelConfig,
    name: str,
    *,
    trained: Artifact,
    tokenizer: Artifact,
    validation: Artifact,
    documents: Artifact | None = None,
    style: Style = "text",
) -> FinishedModel:
    """Score a trained model, judge the texts it writes, and export it.

    The export does not depend on judge_texts, whose key names the judging programs of the machine:
    it would be made again on another machine.

    Args:
        name: of the artifacts.
        documents: held-out documents whose openings are prompts for a model of style text.
    """
    measured = measure_model(
        pipeline,
        name,
        config,
        scoring=_scoring(config, style),
        inputs={"model": trained, "tokenizer": tokenizer, "validation": validation},
        documents=documents,
    )
    exported = pipeline.add(
        export_model,
        name,
        config=ExportModel(export=config.export),
        inputs={"model": trained, "tokenizer": tokenizer, "scores": measured.scores},
    )
    return FinishedModel(trained, measured, exported)


def _scoring(config: ChatModelConfig, style: Style) -> ScoreModel:
    if style == "text":
        return ScoreModel(score=config.score, attention=config.train.attention)
    return ScoreModel(
        score=config.score.model_copy(update={"prompts": config.chat.prompts}),
        loss_on="mask",
        style="chat",
        attention=config.finetune.train.attention,
    )
