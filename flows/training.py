"""The part of the DAG that trains, for the flows that end in a model: base model, chat model.

A model is trained, scored, exported, and reported and filed in one way, whichever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.configured import Session
from flows.evaluation import Measured, check_with_harness, measure_model
from flows.prepare import Corpus, prepare_corpus
from flows.settings.presets import ChatModelConfig
from model.config.evaluation import ScoreConfig, Style
from model.core.artifact import Artifact
from tasks.config.chat import LessonLayout
from tasks.config.corpus import RegistryConfig
from tasks.engine.lesson_shards import VALIDATION
from tasks.engine.pipeline import Pipeline
from tasks.engine.record_sets import ReadSet
from tasks.engine.stage import Stage
from tasks.planning.base_checkpoint import BaseModel
from tasks.reporting.chat import report_chat_data, report_conversation
from tasks.reporting.outcome import report_outcome
from tasks.reporting.run import report_checkpoints, report_harness, report_scores, report_training
from tasks.stages.export_model import ExportModel, export_model
from tasks.stages.promote_candidate import promote_candidate
from tasks.stages.read_chats import chat_sets, read_chats
from tasks.stages.read_preferences import preference_sets, read_preferences
from tasks.stages.register_model import register_model
from tasks.stages.talk_to_model import TalkToModel, talk_to_model
from tasks.stages.train_model import TrainModel, train_model
from tasks.stages.write_chat_shards import write_chat_shards
from tasks.stages.write_preference_shards import write_preference_shards

BASE = "base"  # names of the artifacts; what a model is registered as changes none of them
CHAT = "chat"
PREFERRED = "preferred"


@dataclass(frozen=True)
class TrainedModel:
    """A model, what it scores, what other runtimes load, and what the harness makes of that."""

    trained: Artifact
    measured: Measured
    exported: Artifact
    harness: Artifact | None


@dataclass(frozen=True)
class Lessons:
    """Conversations, or pairs of answers, as shards.

    Args:
        training: one of each set.
        validation: of all sets.
    """

    sets: tuple[str, ...]
    training: tuple[Artifact, ...]
    validation: Artifact


@dataclass(frozen=True)
class ChatModel:
    """A chat model, and a conversation with it.

    Args:
        finetuned: the training on conversations; that of ``model`` may be one on preferences.
    """

    finetuned: Artifact
    model: TrainedModel
    conversation: Artifact


def train_base(
    pipeline: Pipeline, config: ChatModelConfig, *, first: Sequence[Artifact] = ()
) -> tuple[Corpus, BaseModel]:
    """Walk the DAG from raw shards to a trained base model.

    Args:
        first: what has to be made before the training begins.
    """
    corpus = prepare_corpus(pipeline, config)
    for item in first:
        pipeline.wait(item)
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
    base = BaseModel(
        trained=trained,
        tokenizer=corpus.tokenizer,
        pretraining=(corpus.training,),
        model=config.model,
        vocab_size=config.tokenizer.vocab_size,
    )
    return corpus, base


def read_conversations(pipeline: Pipeline, config: ChatModelConfig) -> list[Artifact]:
    """Start reading what a chat model will learn from: a broken record is known before a base is.

    ``finetune_base`` finds them read.
    """
    read = list(_read_chats(pipeline, config).values())
    if config.preference.method == "dpo":
        read += _read_preferences(pipeline, config).values()
    return read


def finetune_base(pipeline: Pipeline, config: ChatModelConfig, base: BaseModel) -> ChatModel:
    """Walk the DAG from conversations and a base model to an exported chat model."""
    read = _read_chats(pipeline, config)
    chats = _write(pipeline, config, base, stage=write_chat_shards, role="chats", read=read)
    weights = [config.chat.weights.get(name, 1.0) for name in chats.sets]
    finetuned = pipeline.add(
        train_model,
        CHAT,
        config=TrainModel(
            model=base.model,
            train=config.finetune.train,
            repeats=tuple(weights),
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
    trained = finetuned
    if config.preference.method == "dpo":
        trained = _prefer(pipeline, config, base, start=finetuned)
    score = config.score.model_copy(update={"prompts": config.chat.prompts})
    model = finish_model(
        pipeline,
        config,
        CHAT,
        trained=trained,
        tokenizer=base.tokenizer,
        validation=chats.validation,
        score=score,
        style="chat",
    )
    conversation = pipeline.add(
        talk_to_model,
        CHAT,
        config=TalkToModel(talk=config.finetune.talk),
        inputs={"exported": model.exported},
    )
    return ChatModel(finetuned, model, conversation)


def _read_chats(pipeline: Pipeline, config: ChatModelConfig) -> dict[str, Artifact]:
    sets = chat_sets(config.chat, data_seed=config.data.seed, store=pipeline.store)
    return _read(pipeline, read_chats, sets)


def _read_preferences(pipeline: Pipeline, config: ChatModelConfig) -> dict[str, Artifact]:
    sets = preference_sets(config.preference, data_seed=config.data.seed, store=pipeline.store)
    return _read(pipeline, read_preferences, sets)


def _read(pipeline: Pipeline, stage: Stage, sets: Mapping[str, ReadSet]) -> dict[str, Artifact]:
    return {name: pipeline.add(stage, name, config=item, inputs={}) for name, item in sets.items()}


def _write(
    pipeline: Pipeline,
    config: ChatModelConfig,
    base: BaseModel,
    *,
    stage: Stage,
    role: str,
    read: Mapping[str, Artifact],
) -> Lessons:
    """Add the stages that make shards of what was read.

    Args:
        role: of the inputs of ``stage`` that are the sets.
    """

    def shards(name: str, sets: Sequence[Artifact]) -> Artifact:
        return pipeline.add(
            stage,
            name,
            config=LessonLayout(
                split="validation" if name == VALIDATION else "training",
                context_tokens=base.model.context_tokens,
                shard_tokens=config.shards.shard_tokens,
                seed=config.data.seed,
            ),
            inputs={role: sets, "tokenizer": base.tokenizer},
        )

    return Lessons(
        sets=tuple(read),
        training=tuple(shards(f"training-{name}", [item]) for name, item in read.items()),
        validation=shards(VALIDATION, list(read.values())),
    )


def _prefer(
    pipeline: Pipeline, config: ChatModelConfig, base: BaseModel, *, start: Artifact
) -> Artifact:
    """Walk the DAG from pairs of answers and a chat model to one that prefers the better ones."""
    read = _read_preferences(pipeline, config)
    pairs = _write(
        pipeline, config, base, stage=write_preference_shards, role="preferences", read=read
    )
    weights = [config.preference.weights.get(name, 1.0) for name in pairs.sets]
    return pipeline.add(
        train_model,
        PREFERRED,
        config=TrainModel(
            model=base.model,
            train=config.preference.train,
            repeats=tuple(weights),
            dpo=config.preference.dpo,
            style="chat",
            sample_prompts=config.chat.prompts,
            tracking_parent=pipeline.tracking_run_id,
        ),
        inputs={
            "tokenizer": base.tokenizer,
            "training": pairs.training,
            "validation": pairs.validation,
            "init_from": start,
        },
    )


def finish_model(
    pipeline: Pipeline,
    config: ChatModelConfig,
    name: str,
    *,
    trained: Artifact,
    tokenizer: Artifact,
    validation: Artifact,
    score: ScoreConfig,
    style: Style,
    documents: Artifact | None = None,
) -> TrainedModel:
    """Add the stages that score and export a trained model; args are those of measure_model.

    The export reads no judgement of texts: what programs a machine has to judge with is in a
    judgement's key, and a model is the same whoever judges it.
    """
    measured = measure_model(
        pipeline,
        name,
        config,
        model=trained,
        tokenizer=tokenizer,
        validation=validation,
        documents=documents,
        score=score,
        style=style,
        loss_on="mask" if style == "chat" else "all",
        attention=(config.finetune.train if style == "chat" else config.train).attention,
    )
    exported = pipeline.add(
        export_model,
        name,
        config=ExportModel(export=config.export),
        inputs={"model": trained, "tokenizer": tokenizer, "scores": measured.scores},
    )
    harness = check_with_harness(pipeline, name, config, exported=exported, measured=measured)
    return TrainedModel(trained, measured, exported, harness)


def report_model(session: Session, model: TrainedModel, *, registry: RegistryConfig) -> None:
    """Report a training, what came of it and what it scores; file the model, and promote it."""
    _report_trained(session, model.trained)
    report_scores(session.tracking, model.measured.all, session.store)
    report_checkpoints(session.tracking, model.measured.checkpoints, session.store)
    report_harness(session.tracking, model.harness, session.store)
    registered = register_model(
        session.tracking,
        model.exported,
        scores=model.measured.all,
        registry=registry,
        store=session.store,
    )
    promote_candidate(session.tracking, registered, registry=registry)


def _report_trained(session: Session, trained: Artifact) -> None:
    report_training(session.tracking, trained, session.store)
    report_outcome(
        session.tracking,
        trained,
        expected=session.plan.training_of(trained),
        store=session.store,
    )


def report_chat_model(session: Session, made: ChatModel, *, registry: RegistryConfig) -> None:
    """Report a chat model: its conversations, the model, and how it talks."""
    report_chat_data(session.tracking, session.manifests())
    if made.finetuned != made.model.trained:
        _report_trained(session, made.finetuned)
    report_model(session, made.model, registry=registry)
    report_conversation(
        session.tracking, made.conversation, scores=made.model.measured.scores, store=session.store
    )
