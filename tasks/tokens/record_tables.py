"""Tables of checked records, read a batch at a time, and what each of their records teaches.

The records are conversations or pairs of answers: ``tasks.tokens.chats`` and ``pairs`` make lessons
of them, which ``tasks.tokens.lessons`` writes. Columns ``file`` and ``row`` are in every table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ArtifactError
from model.text.conversation import SFTExample

BATCH_RECORDS = 256


@dataclass(frozen=True)
class RecordTable:
    """A table of records, and the name of the set it is of."""

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
    lessons: tuple[SFTExample, ...]
    is_shortened: bool


def file_names(tables: Sequence[RecordTable]) -> tuple[str, ...]:
    """Return the names of all files that tables hold records of, sorted."""
    names = {
        table.file_name(file)
        for table in tables
        for batch in table_batches(table.path, columns=["file"])
        for file in batch["file"].unique().to_pylist()
    }
    return tuple(sorted(names))


def table_batches(path: Path, *, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the record batches of a table that was written by a stage.

    Raises:
        ArtifactError: it cannot be read, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if not set(columns) <= set(names):  # iter_batches passes over what is not there
                raise _unreadable(path, columns, found=f"columns {', '.join(names)}")
            yield from table.iter_batches(BATCH_RECORDS, columns=list(columns))
    except (OSError, pa.ArrowException) as exc:
        raise _unreadable(path, columns, found=exc) from exc


def _unreadable(path: Path, columns: Sequence[str], *, found: object) -> ArtifactError:
    return ArtifactError(
        "a table of records cannot be read",
        expected=f"a Parquet file with columns {', '.join(columns)}",
        found=found,
        where=path,
        fix="delete the artifact and let its stage run again",
    )
