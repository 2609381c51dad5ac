"""Conversations as ids: through the one template, cut to whole turns where they are too long.

Reads tables of checked conversations (columns ``file``, ``row``, ``messages``) a batch at a time.
``model.conversation`` lays down which ids a conversation has and which of them are to be learned;
here is only speed, and what becomes of conversations that outgrow a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.chat import Message, read_messages
from model.conversation import Lesson, Teacher, turn_text
from model.errors import ArtifactError
from model.tokenizer import Tokenizer

BATCH_CONVERSATIONS = 256
COLUMNS = ["file", "row", "messages"]


@dataclass(frozen=True)
class ChatTable:
    """A table of conversations, or of pairs, and the name of the set it is of."""

    set_name: str
    path: Path

    def file_name(self, file: str) -> str:
        """Return the name of one of its files among those of all sets."""
        return f"{self.set_name}/{file}"


@dataclass(frozen=True)
class Taught:
    """One record of a table, as much of it as fits a row.

    Args:
        lessons: one of a conversation, two of a pair of answers; none if too little fits.
        is_shortened: whether they lack turns of the record.
    """

    file: str
    row: int
    lessons: tuple[Lesson, ...]
    is_shortened: bool


def teach(table: ChatTable, tokenizer: Tokenizer, *, row_tokens: int) -> Iterator[Taught]:
    """Yield the conversations of a table in order, as ids; the last turns of a long one go.

    Too little fits where not even the first exchange does.

    Args:
        row_tokens: most ids of one.

    Raises:
        ArtifactError: the table cannot be read.
        SourceRecordError: it holds what is no conversation.
    """
    teacher = Teacher(tokenizer)
    for batch in table_batches(table.path):
        columns = [batch[name].to_pylist() for name in COLUMNS]
        conversations = [
            read_messages(records, where=f"{table.path}, {file}, row {row}")
            for file, row, records in zip(*columns, strict=True)
        ]
        words = iter(tokenizer.encode_batch(_turn_texts(conversations)))
        for file, row, messages in zip(*columns[:2], conversations, strict=True):
            whole = teacher.lesson(messages, [next(words) for _ in messages])
            lesson = whole.fitted(row_tokens)
            lessons = (lesson,) if lesson else ()
            is_cut = lesson is not None and len(lesson.ids) < len(whole.ids)
            yield Taught(table.file_name(file), row, lessons, is_cut)


def file_names(tables: Sequence[ChatTable]) -> tuple[str, ...]:
    """Return the names of all files that tables hold conversations of, sorted."""
    names = {
        table.file_name(file)
        for table in tables
        for batch in table_batches(table.path, columns=["file"])
        for file in batch["file"].unique().to_pylist()
    }
    return tuple(sorted(names))


def _turn_texts(conversations: Sequence[Sequence[Message]]) -> list[str]:
    return [turn_text(message) for messages in conversations for message in messages]


def table_batches(path: Path, *, columns: Sequence[str] = COLUMNS) -> Iterator[Any]:
    """Yield the record batches of a table that was written by a stage.

    Raises:
        ArtifactError: it cannot be read, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as table:
            yield from table.iter_batches(BATCH_CONVERSATIONS, columns=list(columns))
    except (OSError, pa.ArrowException) as exc:
        raise ArtifactError(
            "a table of conversations cannot be read",
            expected=f"a Parquet file with columns {', '.join(COLUMNS)}",
            found=exc,
            where=path,
            fix="delete the artifact and let its stage run again",
        ) from exc
