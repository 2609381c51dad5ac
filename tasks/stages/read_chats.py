"""Stage read_chats: one set of conversations, checked, split into training and held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model.core.store import ArtifactStore, Work
from tasks.config.chat import ChatConfig
from tasks.corpus.chat_data.checked_sets import SPLIT_ALGORITHM
from tasks.corpus.chat_data.conversations import CONVERSATIONS
from tasks.corpus.chat_data.records import Fields
from tasks.corpus.demo.chats import Conversation, demo_conversations, held_out_conversations
from tasks.engine.record_sets import (
    DemoRecords,
    GeneratedSet,
    ReadSet,
    RecordSetOutputs,
    build_set,
    pinned_sets,
    sets_to_read,
)
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1


class ReadChatsOutputs(RecordSetOutputs, stage="read_chats"):
    """One set of conversations."""


def pinned_chats(chat: ChatConfig) -> ChatConfig:
    """Return the settings with sets of the hub pinned to their commits."""
    return pinned_sets(chat, CONVERSATIONS)


def chat_sets(chat: ChatConfig, *, data_seed: int, store: ArtifactStore) -> Mapping[str, ReadSet]:
    """Return the sets to read, by name; raises as ``sets_to_read`` does."""
    generated = GeneratedSet(what="conversations", num_training=chat.demo_conversations)
    return sets_to_read(
        chat, kind=CONVERSATIONS, generated=generated, data_seed=data_seed, store=store
    )


def build(work: Work, config: ReadSet, share: ResourceShare) -> None:  # noqa: ARG001
    """Write training.parquet, held_out.parquet and rejected.parquet."""
    build_set(work, config, outputs=ReadChatsOutputs, kind=CONVERSATIONS, demo=DEMO)


def _training(num: int, *, seed: int) -> Iterator[Fields]:
    return map(_fields, demo_conversations(num, seed=seed))


def _held_out(num: int, *, seed: int) -> Iterator[Fields]:
    return map(_fields, held_out_conversations(num, seed=seed))


def _fields(conversation: Conversation) -> Fields:
    return {"messages": conversation}


DEMO = DemoRecords(training=_training, held_out=_held_out)
read_chats = Stage(
    ReadChatsOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"split": SPLIT_ALGORITHM},
)
