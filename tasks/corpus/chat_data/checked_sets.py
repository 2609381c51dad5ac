"""Checked records of one set, split into training and held-out tables; rejected ones apart.

    training.parquet, held_out.parquet   file, row, and the columns of the kind of records
    rejected.parquet                     file, row, reason, detail

A hash of the user's first message decides the side, whatever the set or the kind, so that with one
seed no opening question is on both sides, in any two sets.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from tasks.corpus.chat_data.records import (
    BrokenRecordError,
    CheckedRecord,
    Fields,
    Record,
    RecordKind,
    Row,
    SetCounts,
    read_records,
)
from tasks.corpus.sources.columns import OnBroken
from tasks.corpus.sources.named_sets import SetFile

TRAINING_NAME = "training.parquet"
HELD_OUT_NAME = "held_out.parquet"
REJECTED_NAME = "rejected.parquet"
SPLIT_ALGORITHM = (  # for cache keys
    "xxh64(first user message, lower case, single spaces), seeded; over the limit: neither side"
)
REJECTED_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)
BUFFERED_ROWS = 2_048


@dataclass(frozen=True)
class Split:
    """Split of records into training and held-out ones."""

    frac: float  # share of the openings that is held out, those of the lowest hashes, in every set
    max_held_out: int  # most held-out records to keep; those above are on neither side
    seed: int  # of the hash

    def place(self, opening: str) -> float:
        """Return the hash of the user's first message, as a number from 0 to 1."""
        plain = " ".join(opening.lower().split())
        return xxhash.xxh64_intdigest(plain.encode(), seed=self.seed) / 2**64


def write_set(
    files: Iterable[SetFile],
    *,
    kind: RecordKind,
    split: Split,
    on_broken: OnBroken,
    destination: Path,
) -> SetCounts:
    """Check every record of a set's files and write the three tables.

    Raises:
        SourceRecordError: a record is not of the kind and ``on_broken`` is "fail".
        SourceSchemaError: a file lacks the columns of the kind.
        SourceError: a file cannot be read.
        CorpusError: too few records of the set remain.
    """
    rejected: Counter[str] = Counter()
    held_out = _HeldOut(split)
    with (
        _RowTable(destination / TRAINING_NAME, kind.schema) as training,
        _RowTable(destination / HELD_OUT_NAME, kind.schema) as held_out_table,
        _RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA) as rejected_table,
    ):
        for item in files:
            for record in read_records(item, kind):
                found = _checked(record, item, kind=kind, on_broken=on_broken)
                if isinstance(found, BrokenRecordError):
                    rejected[found.reason] += 1
                    rejected_table.add(_rejected_row(record, item, found))
                else:
                    row = _row(item.file.path, record.row, found)
                    if not held_out.take(row, split.place(found.opening)):
                        training.add(row)
        held_out_table.add(*held_out.rows())
    counts = SetCounts(
        num_in=training.num_rows + held_out.num_taken + rejected_table.num_rows,
        num_training=training.num_rows,
        num_held_out=held_out_table.num_rows,
        rejected={reason: rejected[reason] for reason in kind.reasons},
        over_limit=held_out.num_taken - held_out_table.num_rows,
    )
    kind.require_enough(counts)
    return counts


def write_generated(
    training: Iterable[Fields],
    held_out: Iterable[Fields],
    *,
    kind: RecordKind,
    file: str,
    destination: Path,
) -> SetCounts:
    """Write the three tables of generated records, which have a side already."""
    counts: list[int] = []
    for name, records in ((TRAINING_NAME, training), (HELD_OUT_NAME, held_out)):
        with _RowTable(destination / name, kind.schema) as table:
            for row, fields in enumerate(records):
                table.add(_row(f"{file}/{name}", row, kind.checked(fields)))
        counts.append(table.num_rows)
    with _RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA):
        pass
    return SetCounts(
        num_in=sum(counts),
        num_training=counts[0],
        num_held_out=counts[1],
        rejected=dict.fromkeys(kind.reasons, 0),
    )


def _checked(
    record: Record, item: SetFile, *, kind: RecordKind, on_broken: OnBroken
) -> CheckedRecord | BrokenRecordError:
    try:
        if isinstance(record.fields, BrokenRecordError):
            raise record.fields
        return kind.checked(record.fields)
    except BrokenRecordError as broken:
        if on_broken == "fail":
            raise kind.refusal(broken, where=f"{item.where}, {record.where}") from broken
        return broken


def _row(file: str, row: int, checked: CheckedRecord) -> Row:
    return {"file": file, "row": row, **checked.columns()}


def _rejected_row(record: Record, item: SetFile, broken: BrokenRecordError) -> Row:
    place = {"file": item.file.path, "row": record.row}
    return {**place, "reason": broken.reason, "detail": f"{record.where}: {broken.found}"}


class _HeldOut:
    """The held-out records with the lowest hashes, up to the limit.

    Those above the limit do not go back to training: another set, below its limit, may hold out the
    same opening.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._heap: list[tuple[float, int, Row]] = []  # highest place first
        self.num_taken = 0

    def take(self, row: Row, place: float) -> bool:
        """Take a record if its hash is among those held out; return whether it was."""
        if place >= self._split.frac:
            return False
        self.num_taken += 1
        heapq.heappush(self._heap, (-place, -self.num_taken, row))
        if len(self._heap) > self._split.max_held_out:
            heapq.heappop(self._heap)
        return True

    def rows(self) -> list[Row]:
        """Return the kept records, in order of arrival."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: -item[1])]


@dataclass
class _RowTable:
    """A parquet file to which rows are appended."""

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
