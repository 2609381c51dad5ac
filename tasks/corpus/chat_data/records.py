"""Reader of the records of a set's files, and the definition of a kind of records.

The kinds are ``CONVERSATIONS`` and ``PAIRS`` of the modules beside this one. A file is parquet, or
jsonl, plain or compressed; columns and keys that the kind does not use are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from model.core.errors import SourceRecordError
from tasks.corpus.sources.jsonl import JSONL_SUFFIXES, MAX_LINE_BYTES, json_fault, read_lines
from tasks.corpus.sources.named_sets import Purpose, SetFile
from tasks.corpus.sources.raw_file import open_parquet

READ_ROWS = 1_024

Fields = Mapping[str, Any]
Row = dict[str, Any]


class BrokenRecordError(Exception):
    """A record is not of its kind.

    Args:
        reason: one of the kind's ``reasons``.
        found: the value found, for people.
    """

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason
        self.found = found


@dataclass(frozen=True)
class Record:
    """One record of a file, unchecked."""

    row: int  # its number among the file's records, from 0
    where: str  # row or line, for people
    fields: Fields | BrokenRecordError  # as read; ``BrokenRecordError`` if it cannot be parsed


class CheckedRecord(Protocol):
    """A valid record of a kind."""

    @property
    def opening(self) -> str:
        """The user's first message."""
        ...

    def columns(self) -> Row:
        """Return its columns of a table, besides file and row."""
        ...


@dataclass(frozen=True)
class SetCounts:
    """Counts of the records of a set; in = training + held out + over limit + every reason."""

    num_in: int
    num_training: int
    num_held_out: int
    rejected: Mapping[str, int]
    over_limit: int = 0  # held-out records above the limit

    @property
    def rejected_text(self) -> str:
        """Number of rejected records by reason, for people."""
        found = (f"{name} {count}" for name, count in self.rejected.items() if count)
        return ", ".join(found) or "none"


@dataclass(frozen=True)
class RecordKind:
    """A kind of records: how they are read, checked, and named in errors."""

    group: str  # group of settings that names the sets
    noun: str  # name of one record in an error
    definition: str  # of a valid record, for an error
    reasons: tuple[str, ...]  # reasons to reject a record
    schema: pa.Schema  # of the tables of valid records
    # Given the schema and the address of a parquet file, returns the columns to read; raises
    # ``SourceSchemaError`` where one is missing, or of another type.
    wanted_columns: Callable[[pa.Schema, str], list[str]]
    # Validates the fields of a record; raises ``BrokenRecordError``.
    checked: Callable[[Fields], CheckedRecord]
    # Raises ``CorpusError`` where the counts make a set useless.
    require_enough: Callable[[SetCounts], None]

    @property
    def purpose(self) -> Purpose:
        """Restrictions on the sets of such records."""
        return Purpose(
            noun=f"{self.group} set",
            setting=f"{self.group}.sets",
            suffixes=(".parquet", *JSONL_SUFFIXES),
            needs_commit=False,
        )

    def refusal(self, broken: BrokenRecordError, *, where: str) -> SourceRecordError:
        """Return the error for a record that is not of the kind."""
        return SourceRecordError(
            f"a record of a {self.group} file is no {self.noun} ({broken.reason})",
            expected=self.definition,
            found=broken.found,
            where=where,
            fix=f"correct the record, or set {self.group}.on_broken_record=skip to have such ones "
            "counted",
        )


def read_records(item: SetFile, kind: RecordKind) -> Iterator[Record]:
    """Yield the records of a file in order.

    Raises:
        SourceSchemaError: a parquet file lacks columns of the kind.
        SourceError: the file is cut off, or not of its format.
    """
    if item.file.path.endswith(".parquet"):  # a fetched file has another name
        yield from _parquet_records(item, kind)
    else:
        for row, (number, line) in enumerate(read_lines(item.path)):
            yield Record(row, f"line {number}", _parsed(line))


def shown(value: object) -> str:
    """Return a value for an error, at most 80 characters of it."""
    return f"{value!r:.80}"


def _parquet_records(item: SetFile, kind: RecordKind) -> Iterator[Record]:
    with open_parquet(item.path, where=item.where, pre_buffer=False) as parquet:
        columns = kind.wanted_columns(parquet.schema_arrow, item.where)
        row = 0
        for batch in parquet.iter_batches(READ_ROWS, columns=columns):
            for fields in batch.to_pylist():
                yield Record(row, f"row {row}", fields)
                row += 1


def _parsed(line: bytes | None) -> Fields | BrokenRecordError:
    if line is None:
        return BrokenRecordError("not_json", f"a line of more than {MAX_LINE_BYTES:,} bytes")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return BrokenRecordError("not_json", f"no JSON in UTF-8 ({json_fault(error)})")
    if not isinstance(record, dict):
        return BrokenRecordError("not_json", f"a JSON {type(record).__name__}, not an object")
    return record
