"""Checked conversations of one set: those for training, those that only measure, and the rest.

    training.parquet, held_out.parquet   file, row, messages: list of struct (role, content)
    rejected.parquet                     file, row, reason, detail

Which side a conversation is on, the words it opens with decide: a hash of the user's first message,
which knows nothing of the set, so that no opening question is on both sides, of any two sets.
``read_chats`` is the caller; ``tasks.tokens`` reads on.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from model.chat import Message
from model.errors import CorpusError
from tasks.corpus.chat_records import (
    REASONS,
    BrokenRecordError,
    ChatRecord,
    broken_record,
    checked,
    read_records,
)
from tasks.corpus.data_sets import SetFile
from tasks.corpus.foreign_columns import OnBroken

TRAINING_NAME = "training.parquet"
HELD_OUT_NAME = "held_out.parquet"
REJECTED_NAME = "rejected.parquet"
SPLIT_ALGORITHM = (  # for cache keys
    "xxh64(first user message, lower case, single spaces), seeded; over the limit: neither side"
)
CONVERSATION_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)
BUFFERED_ROWS = 2_048

Row = dict[str, Any]


@dataclass(frozen=True)
class ChatCounts:
    """Where the records of a set went; in = training + held out + over limit + every reason.

    Args:
        over_limit: held out of training, and more than measure.
    """

    num_in: int
    num_training: int
    num_held_out: int
    rejected: Mapping[str, int]
    over_limit: int = 0

    def of_stage(self) -> dict[str, int]:
        """Return them as the counts of the stage that read the set."""
        return {
            "num_in": self.num_in,
            "num_training": self.num_training,
            "num_held_out": self.num_held_out,
            "over_limit": self.over_limit,
            **self.rejected,
        }


@dataclass(frozen=True)
class Split:
    """Which conversations only measure.

    Args:
        frac: share of the openings: those of the lowest places, which no set trains on.
        max_held_out: at most so many measure; the others of the share are on neither side.
        seed: of the hash.
    """

    frac: float
    max_held_out: int
    seed: int

    def place(self, messages: Sequence[Message]) -> float:
        """Return where a conversation's opening falls between 0 and 1."""
        opening = next(turn.content for turn in messages if turn.role == "user")
        plain = " ".join(opening.lower().split())
        return xxhash.xxh64_intdigest(plain.encode(), seed=self.seed) / 2**64


def write_conversations(
    files: Iterable[SetFile],
    *,
    split: Split,
    on_broken: OnBroken,
    destination: Path,
) -> ChatCounts:
    """Check every record of a set's files and write the three tables.

    Raises:
        SourceRecordError: a record is no conversation and ``on_broken`` is "fail".
        SourceSchemaError: a file has no column of messages.
        SourceError: a file cannot be read.
        CorpusError: no conversation is left for training.
    """
    rejected: Counter[str] = Counter()
    held_out = HeldOut(split)
    with (
        RowTable(destination / TRAINING_NAME, CONVERSATION_SCHEMA) as training,
        RowTable(destination / HELD_OUT_NAME, CONVERSATION_SCHEMA) as measuring,
        RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA) as refused,
    ):
        for item in files:
            for record in read_records(item):
                messages = _checked(record, item, on_broken=on_broken)
                if isinstance(messages, BrokenRecordError):
                    rejected[messages.reason] += 1
                    refused.add(_refused_row(record, item, messages))
                else:
                    row = _row(item.file.path, record.row, messages)
                    if not held_out.take(row, split.place(messages)):
                        training.add(row)
        measuring.add(*held_out.rows())
    num_in = training.num_rows + held_out.num_taken + refused.num_rows
    _require_some(training.num_rows, num_in=num_in, rejected=rejected)
    return ChatCounts(
        num_in=num_in,
        num_training=training.num_rows,
        num_held_out=measuring.num_rows,
        rejected={reason: rejected[reason] for reason in REASONS},
        over_limit=held_out.num_taken - measuring.num_rows,
    )


def _checked(
    record: ChatRecord, item: SetFile, *, on_broken: OnBroken
) -> tuple[Message, ...] | BrokenRecordError:
    try:
        return checked(record.messages)
    except BrokenRecordError as broken:
        if on_broken == "fail":
            raise broken_record(broken, where=f"{item.where}, {record.where}") from broken
        return broken


def _row(file: str, row: int, messages: Sequence[Message]) -> Row:
    return {"file": file, "row": row, "messages": [turn.model_dump() for turn in messages]}


def _refused_row(record: ChatRecord, item: SetFile, broken: BrokenRecordError) -> Row:
    place = {"file": item.file.path, "row": record.row}
    return {**place, "reason": broken.reason, "detail": f"{record.where}: {broken.found}"}


def write_generated(
    training: Iterable[Sequence[Mapping[str, str]]],
    held_out: Iterable[Sequence[Mapping[str, str]]],
    *,
    file: str,
    destination: Path,
) -> ChatCounts:
    """Write the three tables of conversations that were generated for one side or the other."""
    sides = ((TRAINING_NAME, training), (HELD_OUT_NAME, held_out))
    counts: list[int] = []
    for name, conversations in sides:
        with RowTable(destination / name, CONVERSATION_SCHEMA) as table:
            for row, messages in enumerate(conversations):
                table.add(_row(f"{file}/{name}", row, checked(messages)))
        counts.append(table.num_rows)
    with RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA):
        pass
    return ChatCounts(
        num_in=sum(counts),
        num_training=counts[0],
        num_held_out=counts[1],
        rejected=dict.fromkeys(REASONS, 0),
    )


class HeldOut:
    """What is held out of training: of that, the lowest places are kept, as many as may be.

    What is over the limit is not handed back to training: another set, whose limit is not reached,
    may measure with the same opening.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._heap: list[tuple[float, int, Row]] = []  # highest place first
        self.num_taken = 0

    def take(self, row: Row, place: float) -> bool:
        """Take a conversation if its place is one of those held out; say whether it was."""
        if place >= self._split.frac:
            return False
        self.num_taken += 1
        heapq.heappush(self._heap, (-place, -self.num_taken, row))
        if len(self._heap) > self._split.max_held_out:
            heapq.heappop(self._heap)
        return True

    def rows(self) -> list[Row]:
        """Return what was kept, in the order it came."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: -item[1])]


@dataclass
class RowTable:
    """A parquet file that rows are added to."""

    path: Path
    schema: pa.Schema
    num_rows: int = 0
    _rows: list[Row] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, *rows: Row) -> None:
        """Append rows."""
        self._rows += rows
        self.num_rows += len(rows)
        if len(self._rows) >= BUFFERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
            self._rows.clear()


def _require_some(num_training: int, *, num_in: int, rejected: Mapping[str, int]) -> None:
    if not num_training:
        reasons = ", ".join(f"{name} {count}" for name, count in rejected.items() if count)
        raise CorpusError(
            "no conversation is left for training",
            expected="at least one of every set",
            found=f"{num_in} records; rejected: {reasons or 'none'}",
            fix="name other files in chat.sets, or lower chat.held_out_frac",
        )
