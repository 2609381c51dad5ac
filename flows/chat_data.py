"""The part of the DAG that makes token shards of conversations and of preference pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.settings.config import ChatModelConfig
from model.core.artifact import Artifact
from tasks.config.chat import RecordShardLayout
from tasks.engine.pipeline import Pipeline
from tasks.engine.record_sets import VALIDATION
from tasks.planning.base_checkpoint import BaseCheckpoint
from tasks.stages.read_chats import chat_sets, read_chats
from tasks.stages.read_preferences import preference_sets, read_preferences
from tasks.stages.write_chat_shards import write_chat_shards
from tasks.stages.write_preference_shards import write_preference_shards


@dataclass(frozen=True)
class ChatShards:
    """Conversations, or preference pairs, as token shards."""

    training: tuple[Artifact, ...]  # the shards of each set
    repeats: tuple[float, ...]  # how often an epoch reads each set
    validation: Artifact  # the held-out records of all sets


def read_chat_data(pipeline: Pipeline, config: ChatModelConfig) -> list[Artifact]:
    """Start to read all records a chat model is trained on.

    ``chat_shards`` and ``preference_shards`` find them read.
    """
    read = [*_read_chats(pipeline, config).values()]
    if config.preference.method == "dpo":
        read += _read_preferences(pipeline, config).values()
    return read


def chat_shards(pipeline: Pipeline, config: ChatModelConfig, base: BaseCheckpoint) -> ChatShards:
    """Make token shards of the conversations, with the tokenizer and context of a base model."""
    read = _read_chats(pipeline, config)

    def shards(name: str, sets: Sequence[Artifact]) -> Artifact:
        inputs = {"chats": sets, "tokenizer": base.tokenizer}
        layout = _layout(config, base, name)
        return pipeline.add(write_chat_shards, name, config=layout, inputs=inputs)

    return ChatShards(
        training=tuple(shards(f"training-{name}", [item]) for name, item in read.items()),
        repeats=_repeats(read, config.chat.weights),
        validation=shards(VALIDATION, list(read.values())),
    )


def preference_shards(
    pipeline: Pipeline, config: ChatModelConfig, base: BaseCheckpoint
) -> ChatShards:
    """Make token shards of the preference pairs, with the tokenizer and context of a base model."""
    read = _read_preferences(pipeline, config)

    def shards(name: str, sets: Sequence[Artifact]) -> Artifact:
        inputs = {"preferences": sets, "tokenizer": base.tokenizer}
        layout = _layout(config, base, name)
        return pipeline.add(write_preference_shards, name, config=layout, inputs=inputs)

    return ChatShards(
        training=tuple(shards(f"training-{name}", [item]) for name, item in read.items()),
        repeats=_repeats(read, config.preference.weights),
        validation=shards(VALIDATION, list(read.values())),
    )


def _read_chats(pipeline: Pipeline, config: ChatModelConfig) -> dict[str, Artifact]:
    sets = chat_sets(config.chat, data_seed=config.data.seed, store=pipeline.store)
    return {
        name: pipeline.add(read_chats, name, config=item, inputs={}) for name, item in sets.items()
    }


def _read_preferences(pipeline: Pipeline, config: ChatModelConfig) -> dict[str, Artifact]:
    sets = preference_sets(config.preference, data_seed=config.data.seed, store=pipeline.store)
    return {
        name: pipeline.add(read_preferences, name, config=item, inputs={})
        for name, item in sets.items()
    }


def _layout(config: ChatModelConfig, base: BaseCheckpoint, name: str) -> RecordShardLayout:
    return RecordShardLayout(
        split="validation" if name == VALIDATION else "training",
        context_tokens=base.model.context_tokens,
        shard_tokens=config.shards.shard_tokens,
        seed=config.data.seed,
    )


def _repeats(sets: Mapping[str, Artifact], weights: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(weights.get(name, 1.0) for name in sets)
