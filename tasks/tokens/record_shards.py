"""Tables of checked records in, training shards with a loss mask and rows of whole records out.

Shared by ``tasks.tokens.sft`` and ``tasks.tokens.dpo``, which encode the records. Writes
``shard-00000.arrow``, … and ``rows.arrow``. Rows are padded; no conversation is cut to fill one.
Every conversation begins with ``<|endoftext|>``, which is masked, so that no token of one
conversation is a target of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ArtifactError
from model.data.rows import ROWS_FILE, write_rows
from model.data.shards import Int32Array, ShardHeader, doc_identities, shard_name, write_shard
from model.text.conversation import SFTExample
from model.text.tokenizer import Tokenizer
from tasks.config.chat import RecordShardLayout
from tasks.tokens.packing import whole_document_rows

BATCH_RECORDS = 256


@dataclass(frozen=True)
class RecordTable:
    """A table of records, and the name of its set. Every table has columns file and row."""

    set_name: str
    path: Path

    def file_name(self, file: str) -> str:
        """Return the name of one of its files among those of all sets."""
        return f"{self.set_name}/{file}"


@dataclass(frozen=True)
class EncodedRecord:
    """One record of a table, as much of it as fits a row."""

    file: str  # as in ``RecordTable.file_name``
    row: int
    # One of a conversation, two of a DPO pair; none if the record is too long.
    examples: tuple[SFTExample, ...]
    is_truncated: bool  # whether they lack turns of the record


@dataclass(frozen=True)
class RecordShardCounts:
    """Counts of records and of what was written; records in = ``num_kept`` + ``too_long``."""

    num_in: int
    num_kept: int
    too_long: int
    num_truncated: int  # of those kept, the ones that lost turns
    num_shards: int
    num_tokens: int
    num_targets: int  # tokens that the loss mask leaves
    num_rows: int
    num_padding: int


class RecordShardWriter:
    """Writes the shards of one directory as encoded records come, then its rows."""

    def __init__(
        self,
        destination: Path,
        *,
        tables: Sequence[RecordTable],
        tokenizer: Tokenizer,
        layout: RecordShardLayout,
    ) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        self._destination = destination
        self._layout = layout
        files = file_names(tables)
        self._file_index = {name: index for index, name in enumerate(files)}
        self._header = ShardHeader(
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            split=layout.split,
            seed=layout.seed,
            files=files,
        )
        self.num_in = self.num_kept = self._num_truncated = self._num_targets = 0
        self._shard_lengths: list[Int32Array] = []
        self._start_shard()

    def _start_shard(self) -> None:
        self._examples: list[SFTExample] = []
        self._docs: list[tuple[int, int]] = []
        self._num_tokens = 0

    def add(self, records: Iterable[EncodedRecord]) -> None:
        """Append records; a shard is written when it is full."""
        for record in records:
            self.num_in += 1
            self.num_kept += bool(record.examples)
            self._num_truncated += record.is_truncated
            for example in record.examples:
                self._append(example, doc=(self._file_index[record.file], record.row))

    def _append(self, example: SFTExample, *, doc: tuple[int, int]) -> None:
        self._examples.append(example)
        self._docs.append(doc)
        self._num_targets += int(example.mask.sum())
        self._num_tokens += len(example.ids)
        if self._num_tokens >= self._layout.shard_tokens:
            self._write_shard()

    def _write_shard(self) -> None:
        lengths = np.array([len(item.ids) for item in self._examples], dtype=np.int64)
        file_index, row = np.array(self._docs, dtype=np.int64).T
        write_shard(
            self._destination / shard_name(len(self._shard_lengths)),
            docs=doc_identities(file_index, row),
            lengths=lengths,
            tokens=np.concatenate([item.ids for item in self._examples]),
            header=self._header,
            loss_mask=np.concatenate([item.mask for item in self._examples]),
        )
        self._shard_lengths.append(lengths.astype(np.int32))
        self._start_shard()

    def finish_shards(self) -> Int32Array:
        """Write the last shard; return the length of every conversation, in order."""
        if self._examples:
            self._write_shard()
        return np.concatenate([np.empty(0, dtype=np.int32), *self._shard_lengths])

    def write_rows(self, row: Int32Array) -> RecordShardCounts:
        """Write ``rows.arrow`` and return all counts.

        Args:
            row: number of the row of each conversation, from 0 without a gap.
        """
        context_tokens = self._layout.context_tokens
        segments = whole_document_rows(self._shard_lengths, row)
        write_rows(self._destination / ROWS_FILE, segments, context_tokens=context_tokens)
        return RecordShardCounts(
            num_in=self.num_in,
            num_kept=self.num_kept,
            too_long=self.num_in - self.num_kept,
            num_truncated=self._num_truncated,
            num_shards=len(self._shard_lengths),
            num_tokens=sum(int(item.sum()) for item in self._shard_lengths),
            num_targets=self._num_targets,
            num_rows=segments.num_rows,
            num_padding=segments.num_padding(context_tokens),
        )


def table_batches(path: Path, *, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the record batches of a table.

    Raises:
        ArtifactError: it cannot be read, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if not set(columns) <= set(names):  # iter_batches ignores missing columns
                raise _unreadable(path, columns, found=f"columns {', '.join(names)}")
            yield from table.iter_batches(BATCH_RECORDS, columns=list(columns))
    except (OSError, pa.ArrowException) as exc:
        raise _unreadable(path, columns, found=exc) from exc


def file_names(tables: Sequence[RecordTable]) -> tuple[str, ...]:
    """Return the names of the files of all tables, sorted."""
    names = {
        table.file_name(file)
        for table in tables
        for batch in table_batches(table.path, columns=["file"])
        for file in batch["file"].unique().to_pylist()
    }
    return tuple(sorted(names))


def _unreadable(path: Path, columns: Sequence[str], *, found: object) -> ArtifactError:
    return ArtifactError(
        "a table of records cannot be read",
        expected=f"a Parquet file with columns {', '.join(columns)}",
        found=found,
        where=path,
        fix="delete the artifact and let its stage run again",
    )
