"""Records of the files of a set, one by one, and what a kind of records is.

Conversations (``tasks.corpus.chat_data.conversations``) and pairs of answers
(``preference_records``) are the kinds. A file is parquet, or jsonl, plain or compressed; of a
record, what its kind asks for is looked at, and other columns and keys do not matter.
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
    """A record is not what those of its kind are.

    Args:
        reason: one of the kind's ``reasons``.
        found: what stands there, for people.
    """

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason
        self.found = found


@dataclass(frozen=True)
class Record:
    """One record of a file as it is.

    Args:
        row: its number among the file's records, from 0.
        where: row or line, for people.
        fields: whatever stands there; ``BrokenRecordError`` if nothing can be read.
    """

    row: int
    where: str
    fields: Fields | BrokenRecordError


class CheckedRecord(Protocol):
    """A record that is what those of its kind are."""

    @property
    def opening(self) -> str:
        """What the user says first."""
        ...

    def columns(self) -> Row:
        """Return its columns of a table, beside file and row."""
        ...


@dataclass(frozen=True)
class SetCounts:
    """Where the records of a set went; in = training + held out + over limit + every reason.

    Args:
        over_limit: held out of training, and more than measure.
    """

    num_in: int
    num_training: int
    num_held_out: int
    rejected: Mapping[str, int]
    over_limit: int = 0

    @property
    def rejected_text(self) -> str:
        """How many were rejected for which reason, for people."""
        found = (f"{name} {count}" for name, count in self.rejected.items() if count)
        return ", ".join(found) or "none"


@dataclass(frozen=True)
class RecordKind:
    """What the records of the sets of one group of settings are.

    Args:
        group: of the settings that name the sets.
        noun: what one record is called in an error.
        definition: what makes a record one, for an error.
        reasons: why a record may be none.
        schema: of the tables of checked ones.
        wanted_columns: given the schema of a parquet file and where it lies, returns which columns
            to read; raises ``SourceSchemaError`` where one is missing, or of another type.
        checked: returns a record's fields as one of the kind; raises ``BrokenRecordError``.
        require_enough: raises ``CorpusError`` where counts leave a set of no use.
    """

    group: str
    noun: str
    definition: str
    reasons: tuple[str, ...]
    schema: pa.Schema
    wanted_columns: Callable[[pa.Schema, str], list[str]]
    checked: Callable[[Fields], CheckedRecord]
    require_enough: Callable[[SetCounts], None]

    @property
    def purpose(self) -> Purpose:
        """What sets of such records are for."""
        return Purpose(
            noun=f"{self.group} set",
            setting=f"{self.group}.sets",
            suffixes=(".parquet", *JSONL_SUFFIXES),
            needs_commit=False,
        )

    def refusal(self, broken: BrokenRecordError, *, where: str) -> SourceRecordError:
        """Return the error that names a record which is none of the kind."""
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
        SourceSchemaError: a parquet file has no such columns as the kind wants.
        SourceError: the file is cut off, or not of its format.
    """
    if item.file.path.endswith(".parquet"):  # what was fetched has another name here
        yield from _parquet_records(item, kind)
    else:
        for row, (number, line) in enumerate(read_lines(item.path)):
            yield Record(row, f"line {number}", _parsed(line))


def shown(value: object) -> str:
    """Return what was found for an error, 80 characters of it at most."""
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
