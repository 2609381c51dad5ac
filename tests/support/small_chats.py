"""A few conversations as records of input files, as messages and as SFT examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.text.chat_template import Message
from model.text.conversation import ChatEncoder, SFTExample, turn_text
from model.text.tokenizer import Tokenizer
from tasks.corpus.chat_data.checked_sets import (
    HELD_OUT_NAME,
    REJECTED_NAME,
    TRAINING_NAME,
    Split,
    write_set,
)
from tasks.corpus.chat_data.conversations import CONVERSATIONS
from tasks.corpus.chat_data.records import SetCounts
from tasks.corpus.sources.named_sets import SetFile
from tasks.corpus.sources.source_files import SourceFile

Turns = list[dict[str, Any]]

ALL_TRAINING = Split(frac=1e-18, max_held_out=10, seed=1)


def turns(*contents: str, system: str = "") -> Turns:
    """Return messages of user and assistant in turn, after a system message if any."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system else said


def spoken(*contents: str, system: str = "") -> list[Message]:
    """Return the same as ``Message`` objects."""
    return [Message(**turn) for turn in turns(*contents, system=system)]


def example_of(messages: Sequence[Message], tokenizer: Tokenizer) -> SFTExample:
    """Return the SFT example of messages."""
    words = tokenizer.encode_batch([turn_text(message) for message in messages])
    return ChatEncoder(tokenizer).encode(messages, words)


def write_jsonl(path: Path, conversations: Sequence[Any]) -> Path:
    """Write conversations, and lines as they are, to a file and return its path."""
    lines = [
        item if isinstance(item, str) else json.dumps({"source": "test", "messages": item})
        for item in conversations
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_parquet(path: Path, conversations: Sequence[Turns | None]) -> Path:
    """Write conversations to a file and return its path."""
    table = pa.table({"source": ["test"] * len(conversations), "messages": conversations})
    pq.write_table(table, path)
    return path


def check_file(
    path: Path, *, split: Split = ALL_TRAINING, on_broken: Any = "fail"
) -> tuple[SetCounts, dict[str, list[dict[str, Any]]]]:
    """Check the records of a file and return the counts and the rows of each table."""
    destination = path.with_name(f"{path.name}.out")
    destination.mkdir()
    file = SourceFile(name="chats", path=path.name, digest="0")
    counts = write_set(
        [SetFile("set", file, path, str(path))],
        kind=CONVERSATIONS,
        split=split,
        on_broken=on_broken,
        destination=destination,
    )
    names = (TRAINING_NAME, HELD_OUT_NAME, REJECTED_NAME)
    return counts, {name: pq.read_table(destination / name).to_pylist() for name in names}


GOOD_CHATS = [
    turns("Hi", "Hello."),
    turns("Who are you?", " A model.\n", "Really?", system="Be brief."),
    turns("Zwei\u2028Zeilen 😀", "Ja."),
]
