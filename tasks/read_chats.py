"""Stage read_chats: one set of conversations, checked, with what only measures apart."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from model.artifact import Manifest
from model.config import Config
from model.store import ArtifactStore, Work
from tasks.chat_config import ChatConfig
from tasks.corpus.conversations import (
    HELD_OUT_NAME,
    SPLIT_ALGORITHM,
    ChatCounts,
    Split,
    write_conversations,
    write_generated,
)
from tasks.corpus.data_sets import ListedSet, Purpose, list_sets, pinned, set_files
from tasks.corpus.demo_chats import DEMO_CHATS_VERSION, demo_conversations, held_out_conversations
from tasks.corpus.hub_source import DOWNLOAD_FOLDER
from tasks.corpus.jsonl import JSONL_SUFFIXES
from tasks.corpus.raw_file import sweep
from tasks.stage import Share, Stage

STEP_VERSION = 1
DEMO_SET: Final = "demo"
PURPOSE = Purpose(
    noun="chat set", setting="chat.sets", suffixes=(".parquet", *JSONL_SUFFIXES), needs_commit=False
)


class ReadChats(Config):
    """One set, by content, and which of its conversations only measure.

    Args:
        listed: its files; ``None`` stands for the demo's generated conversations.
    """

    listed: ListedSet | None
    chat: ChatConfig
    seed: int

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the tables: files by digest, and what is asked of records."""
        chat = self.chat
        if self.listed is None:
            return {
                "kind": "demo",
                "version": DEMO_CHATS_VERSION,
                "num_conversations": chat.demo_conversations,
                "num_held_out": chat.max_held_out,
                "seed": self.seed,
            }
        source = self.listed.source
        fields = {"kind", "repo", "revision"} if source.kind == "hub" else {"kind"}
        return source.model_dump(mode="json", include=fields) | {
            "files": [{"file": file.path, "digest": file.digest} for file in self.listed.files],
            "held_out_frac": chat.held_out_frac,
            "max_held_out": chat.max_held_out,
            "on_broken_record": chat.on_broken_record,
            "seed": self.seed,
        }


def pinned_chats(chat: ChatConfig) -> ChatConfig:
    """Return what names the same conversations from now on: sets of the hub by their commits."""
    if chat.kind == "demo":
        return chat
    return chat.model_copy(update={"sets": pinned(chat.sets, purpose=PURPOSE)})


def chat_sets(chat: ChatConfig, *, data_seed: int, store: ArtifactStore) -> Mapping[str, ReadChats]:
    """Return what to read, by the name of the set, for the sets as they are now.

    Raises:
        SourceError: a set is missing, or cannot be listed.
        ConfigError: the address of a set is incomplete.
    """
    if chat.kind == "demo":
        return {DEMO_SET: ReadChats(listed=None, chat=chat, seed=data_seed)}
    listed = list_sets(chat.sets, purpose=PURPOSE, cache=store.root / "cache")
    return {
        name: ReadChats(listed=item, chat=chat, seed=data_seed) for name, item in listed.items()
    }


def build(work: Work, config: ReadChats, share: Share) -> None:  # noqa: ARG001
    """Write training.parquet, held_out.parquet and rejected.parquet."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    if config.listed is None:
        counts = _generated(config, work.path)
    else:
        downloads = work.path / DOWNLOAD_FOLDER
        chat = config.chat
        counts = write_conversations(
            set_files({work.derivation.name: config.listed}, downloads=downloads),
            split=Split(chat.held_out_frac, chat.max_held_out, seed=config.seed),
            on_broken=chat.on_broken_record,
            destination=work.path,
        )
        shutil.rmtree(downloads, ignore_errors=True)
    work.counts = counts.of_stage()


def _generated(config: ReadChats, destination: Path) -> ChatCounts:
    chat = config.chat
    return write_generated(
        demo_conversations(chat.demo_conversations, seed=config.seed),
        held_out_conversations(chat.max_held_out, seed=config.seed),
        file=DEMO_SET,
        destination=destination,
    )


def chat_validation_digest(shards: Manifest, store: ArtifactStore) -> str:
    """Return what identifies the conversations behind validation shards, whatever their tokens.

    Where some outgrew the context, what is left of them is told by the context and how many were
    dropped and cut.

    Args:
        shards: of write_chat_shards.
    """
    lines = []
    for item in shards.derivation.inputs["chats"]:
        files = store.read_manifest(item).files
        (sha256,) = (entry.sha256 for entry in files if entry.path == HELD_OUT_NAME)
        lines.append(f"{item.name}\0{sha256}")
    lost = {name: shards.counts.get(name, 0) for name in ("too_long", "num_cut")}
    if any(lost.values()):
        told = {"context_tokens": shards.facts.get("context_tokens"), **lost}
        lines += [f"\0{name}\0{value}" for name, value in told.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


read_chats = Stage(
    "read_chats",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"split": SPLIT_ALGORITHM},
)
