"""The demo corpus: shards of English stories in FineWeb's schema, with known faults planted.

It stands in for web shards where there is no network, and gives every stage of the pipeline
something to find. Each fault is listed in a truth table beside the shard, so that the findings of a
filter or of deduplication can be checked against it. It is not a sample of web text.

Truth table, one line a row: `row`, `id`, `kind` (see `DocumentKind`) and, where another row is
repeated, `original_shard` and `original_row`. An original's language score is above that of its
duplicates, so a deduplication that keeps the best score keeps the original.

Called by the download stage for `source.kind = demo`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ConfigError
from tasks.corpus.demo.documents import (
    DEFAULT_PLANTED,
    DemoDocument,
    DocumentKind,
    PlantedRates,
    demo_document,
)
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

DEMO_CORPUS_VERSION = 2
"""Raise it when equal arguments would give other bytes: it belongs in the key of what is cached."""

TRUTH_NAME = "truth.parquet"
ROW_GROUP_ROWS = 1_000

TRUTH_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("kind", pa.string()),
        ("original_shard", pa.int64()),
        ("original_row", pa.int64()),
    ]
)


def generate_shard(
    path: Path,
    *,
    shard: int,
    num_documents: int,
    seed: int,
    planted: PlantedRates = DEFAULT_PLANTED,
    truth_path: Path | None = None,
) -> dict[str, int]:
    """Write one shard and its truth table, and return its documents by kind, every kind present.

    Equal arguments give equal bytes, whatever the process and the other shards.

    Args:
        path: parquet file to write, of FineWeb's columns.
        truth_path: parquet file to write, of the truth table; by default `truth.parquet` beside it.

    Raises:
        ConfigError: `num_documents` is below 1, or `shard` or `seed` below 0.
    """
    _check_at_least(1, num_documents, setting="num_documents")
    _check_at_least(0, shard, setting="shard")
    _check_at_least(0, seed, setting="seed")
    truth_path = truth_path or path.with_name(TRUTH_NAME)
    counts: Counter[str] = Counter()
    with (
        pq.ParquetWriter(path, FINEWEB_SCHEMA, compression="zstd") as documents_file,
        pq.ParquetWriter(truth_path, TRUTH_SCHEMA, compression="zstd") as truth_file,
    ):
        for first in range(0, num_documents, ROW_GROUP_ROWS):
            rows = range(first, min(first + ROW_GROUP_ROWS, num_documents))
            group = [demo_document(row, shard=shard, seed=seed, planted=planted) for row in rows]
            records = [document.record for document in group]
            documents_file.write_table(pa.Table.from_pylist(records, schema=FINEWEB_SCHEMA))
            truth_file.write_table(_truth_table(group))
            counts.update(document.kind.value for document in group)
    return {kind.value: counts[kind.value] for kind in DocumentKind}


def _truth_table(documents: Sequence[DemoDocument]) -> pa.Table:
    lines = [
        {
            "row": document.row,
            "id": document.record["id"],
            "kind": document.kind.value,
            "original_shard": document.original_shard,
            "original_row": document.original_row,
        }
        for document in documents
    ]
    return pa.Table.from_pylist(lines, schema=TRUTH_SCHEMA)


def _check_at_least(least: int, found: int, *, setting: str) -> None:
    if found < least:
        raise ConfigError(
            "The demo corpus cannot be generated with this setting.",
            expected=f"{setting} of {least} or more",
            found=found,
            where=setting,
            fix=f"set {setting} to {least} or more",
        )
