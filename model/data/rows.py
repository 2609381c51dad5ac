"""Table of training rows: the slices of shards that make up each row.

``rows.arrow`` is an Arrow IPC stream file of one record batch with one column
``segments: list<struct<shard: int32, start: int64, length: int32>>``. A row is a sample of
context + 1 tokens: its segments one after the other, each a slice of a shard's flat tokens. Shorter
rows are padded by the reader. Every token is a target, except a row's first, and the first of a
later segment that is not ``<|endoftext|>``: such a segment continues a document whose beginning is
not in the row. Schema metadata, each value JSON: format_version,
context_tokens, num_rows, num_targets, num_padding. ``tasks.tokens.packing`` makes the rows,
``model.data.shards`` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.core.errors import ConfigError
from model.data.arrow_ipc import (
    foreign_file,
    read_stream,
    to_array,
    to_list_array,
    view_offsets,
    view_values,
    write_stream,
)

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

ROWS_FILE: Final = "rows.arrow"
_SEGMENT_TYPE: Final = pa.struct(
    [("shard", pa.int32()), ("start", pa.int64()), ("length", pa.int32())]
)


@dataclass(frozen=True, eq=False)
class Segments:
    """Training rows as slices of shards.

    Row ``r`` has segments ``row_offsets[r]`` up to, not including, ``row_offsets[r + 1]``.
    ``num_masked_starts`` counts the segments, except the first of a row, whose first token is not a
    target.
    """

    row_offsets: Int64Array
    shard: Int32Array
    start: Int64Array
    length: Int32Array
    num_masked_starts: int = 0

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.row_offsets) - 1

    @property
    def num_targets(self) -> int:
        """Return the number of targets."""
        return int(self.length.sum(dtype=np.int64)) - self.num_rows - self.num_masked_starts

    def num_padding(self, context_tokens: int) -> int:
        """Return the padding tokens of rows of context + 1 tokens."""
        return self.num_rows * context_tokens - self.num_targets

    def slices(self, rows: Int64Array, *, width: int) -> RowSlices:
        """Return the slices of rows, which have ``width`` tokens in the destination; vectorised."""
        first, counts = self.row_offsets[rows], self.row_offsets[rows + 1] - self.row_offsets[rows]
        row_ends = np.cumsum(counts)
        leading = row_ends - counts  # of the segments: those that begin a row
        numbers = np.arange(int(counts.sum())) + np.repeat(first - leading, counts)
        length = self.length[numbers]
        ends = np.cumsum(length, dtype=np.int64)
        tokens_before = np.append(0, ends)[leading]
        row_starts = np.arange(len(rows)) * width - tokens_before
        is_inner = np.ones(len(numbers), dtype=np.bool_)
        is_inner[leading] = False
        return RowSlices(
            shard=self.shard[numbers],
            start=self.start[numbers],
            length=length,
            place=ends - length + np.repeat(row_starts, counts),
            is_inner=is_inner,
            row_lengths=np.append(0, ends)[row_ends] - tokens_before,
        )


@dataclass(frozen=True, eq=False)
class RowSlices:
    """The segments of some rows, concatenated."""

    shard: Int32Array
    start: Int64Array
    length: Int32Array
    place: Int64Array  # of the first token of a segment, in rows that lie end to end
    is_inner: npt.NDArray[np.bool_]  # whether another segment comes before it in its row
    row_lengths: Int64Array

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield shard, start, length and place of each slice."""
        columns = (self.shard, self.start, self.length, self.place)
        return zip(*(column.tolist() for column in columns), strict=True)


def write_rows(path: Path, segments: Segments, *, context_tokens: int) -> None:
    """Write a row table; every row must hold 2 to ``context_tokens + 1`` tokens."""
    sizes = np.diff(np.append(0, np.cumsum(segments.length))[segments.row_offsets])
    assert np.all(sizes >= 2), "a row without targets"
    assert np.all(sizes <= context_tokens + 1), "a row longer than the context"
    children = [
        to_array(pa.int32(), segments.shard),
        to_array(pa.int64(), segments.start),
        to_array(pa.int32(), segments.length),
    ]
    structs = pa.StructArray.from_arrays(children, fields=list(_SEGMENT_TYPE))
    column = to_list_array(segments.row_offsets.astype(np.int32), structs)
    metadata = {
        "context_tokens": context_tokens,
        "num_rows": segments.num_rows,
        "num_targets": segments.num_targets,
        "num_padding": segments.num_padding(context_tokens),
    }
    write_stream(path, {"segments": column}, metadata=metadata)


def open_rows(path: Path, *, context_tokens: int) -> Segments:
    """Map a row table into memory."""
    batch, metadata = read_stream(path)
    try:
        column = batch["segments"]
        offsets = view_offsets(column, item_type=_SEGMENT_TYPE)
        fields = {
            name: view_values(column.values.field(name), _SEGMENT_TYPE.field(name).type)
            for name in ("shard", "start", "length")
        }
        found_context_tokens, num_targets = metadata["context_tokens"], metadata["num_targets"]
    except (KeyError, TypeError, AttributeError) as exc:
        raise foreign_file(path, found=exc) from exc
    if found_context_tokens != context_tokens:
        raise ConfigError(
            "the rows were cut for another context",
            expected=f"context_tokens={context_tokens}",
            found=f"context_tokens={found_context_tokens}",
            where=path,
            fix="write the shards again with this context, or train with that of the shards",
        )
    segments = Segments(row_offsets=offsets.astype(np.int64), **fields)
    return replace(segments, num_masked_starts=segments.num_targets - num_targets)
