"""The FineWeb schema, to which every source of raw documents is brought, and its Parquet writer.

Column meanings follow the FineWeb data card. `language_score` is the classifier's confidence in the
label in `language`, whichever language that is, so a sure German document scores high too. `id`
is meant to be unique but repeats in the wild: join documents by file and row.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

FINEWEB_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("id", pa.string()),
        ("dump", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("file_path", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("token_count", pa.int64()),
    ]
)
DOCUMENT_FIELDS = (("file", pa.string()), ("row", pa.int64()), ("id", pa.string()))
"""Columns that tell which document a row of a derived table is about."""
ROW_GROUP_ROWS = 1_000
_ID_NAMESPACE = uuid.UUID("6f2d3c51-8a0e-5d0b-9b53-0d4f1a7e2c11")  # any fixed value will do


class RawWriter:
    """Writes raw.parquet in FineWeb's columns and small row groups; it appears whole or not at all.

    The same rows give the same bytes, however they are batched. A missing id becomes a UUID of
    `scope` and the row.
    """

    def __init__(self, path: Path, *, scope: str) -> None:
        self.path = path
        self.num_rows = 0
        self._scope = scope
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._pending: list[pa.RecordBatch] = []
        self._num_pending = 0

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(
            self._temporary,
            FINEWEB_SCHEMA,
            compression="zstd",
            # Column names are allowed here too, whatever the stub says.
            use_dictionary=cast("bool", ["dump", "file_path", "language"]),
            write_statistics=cast("bool", [n for n in FINEWEB_SCHEMA.names if n != "text"]),
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush(self._num_pending)
                self._writer.close()
                self._temporary.replace(self.path)
        finally:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, columns: Mapping[str, pa.Array]) -> None:
        """Append rows given as FineWeb column -> values, all of equal length and right type."""
        batch = pa.RecordBatch.from_arrays(
            [columns[name] for name in FINEWEB_SCHEMA.names], schema=FINEWEB_SCHEMA
        )
        if batch.column("id").null_count:
            ids = self._filled_ids(batch.column("id"))
            batch = batch.set_column(batch.schema.get_field_index("id"), "id", ids)
        self.num_rows += batch.num_rows
        self._pending.append(batch)
        self._num_pending += batch.num_rows
        if self._num_pending >= ROW_GROUP_ROWS:
            self._flush(self._num_pending // ROW_GROUP_ROWS * ROW_GROUP_ROWS)

    def _filled_ids(self, ids: pa.Array) -> pa.Array:
        made = (
            value or f"<urn:uuid:{uuid.uuid5(_ID_NAMESPACE, f'{self._scope}:{row}')}>"
            for row, value in enumerate(ids.to_pylist(), start=self.num_rows)
        )
        return pa.array(made, pa.string())

    def _flush(self, num_rows: int) -> None:
        table = pa.Table.from_batches(self._pending, schema=FINEWEB_SCHEMA)
        if num_rows:
            self._writer.write_table(table.slice(0, num_rows), row_group_size=ROW_GROUP_ROWS)
        self._pending = table.slice(num_rows).to_batches()
        self._num_pending -= num_rows
