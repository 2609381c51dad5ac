"""Stage write_chat_shards: conversations as token shards with a loss mask, and rows of whole ones.

One artifact per set for training, so that a mixture can weigh them; one of all sets for validation.
"""

from __future__ import annotations

from dataclasses import asdict

from model.config import Config
from model.store import Work
from tasks.corpus.checked_sets import HELD_OUT_NAME, TRAINING_NAME
from tasks.stage import Share, Stage
from tasks.tokenise import Split
from tasks.tokens.chat_shards import write_chat_shards as write
from tasks.tokens.chats import ChatTable

STEP_VERSION = 1
VALIDATION = "validation"  # name of the artifact of all sets


class WriteChatShards(Config):
    """Which side of the sets, and how their rows are cut."""

    split: Split
    context_tokens: int
    shard_tokens: int
    seed: int


def build(work: Work, config: WriteChatShards, share: Share) -> None:  # noqa: ARG001
    """Write shard-*.arrow and rows.arrow."""
    name = HELD_OUT_NAME if config.split == "validation" else TRAINING_NAME
    chats = work.derivation.inputs["chats"]
    counts = write(
        [ChatTable(item.name, work.store.path(item) / name) for item in chats],
        tokenizer_directory=work.input("tokenizer"),
        split=config.split,
        seed=config.seed,
        context_tokens=config.context_tokens,
        shard_tokens=config.shard_tokens,
        destination=work.path,
    )
    work.counts = asdict(counts)
    work.facts = {"context_tokens": config.context_tokens}


write_chat_shards = Stage("write_chat_shards", version=STEP_VERSION, build=build, scope="corpus")
