"""Stream a bounded, seeded sample of kept text, for training the tokenizer.

Two passes: the first reads sizes and cuts off a seeded order of documents where the sample is full,
the second streams the texts before the cut, file by file in row order. Memory holds one small
record for each document, and a batch of texts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from tasks.corpus.duckdb_connection import Limits, fetch_one, parquet_path, read_sql, reading

BATCH_DOCUMENTS = 1024

_ADD_SIZES = """
INSERT INTO sizes
SELECT sample_order($seed, file, row), least(strlen(text), $max_document_bytes)
FROM read_parquet($part, hive_partitioning = false)
"""
_EXCLUDE_VALIDATION = """
DELETE FROM sizes
WHERE place IN (
    SELECT sample_order($seed, file, row)
    FROM read_parquet($validation, hive_partitioning = false)
)
"""
_VALIDATION_ROWS = "SELECT file, row FROM read_parquet($validation, hive_partitioning = false)"
_TEXTS = """
SELECT file, row, left(text, $max_document_bytes) AS text
FROM read_parquet($part, hive_partitioning = false)
WHERE sample_order($seed, file, row) <= $last_place
"""


def sample_text(
    part_files: Sequence[Path],
    validation: Path,
    *,
    sample_bytes: int,
    max_document_bytes: int,
    seed: int,
    limits: Limits,
) -> Iterator[str]:
    """Yield texts of at most ``sample_bytes`` in all, drawn evenly over the documents of all files.

    The sample is a prefix of one seeded order of documents: a larger one contains a smaller one.
    Everything is yielded if it fits. Errors come with the first text.

    Args:
        part_files: ``part.parquet`` of the filter, in the order in which texts are wanted.
        validation: ``validation.parquet``, whose rows are excluded.
        sample_bytes: most UTF-8 bytes in all.
        max_document_bytes: most UTF-8 bytes of one document; cut between characters.

    Raises:
        SourceError: a file cannot be read.
        CorpusError: there is no document, or none fits.
    """
    rule = {"seed": seed, "max_document_bytes": max_document_bytes}
    with limits.connect() as connection:
        connection.execute(read_sql("sample_order"))
        held_out = _collect_sizes(connection, part_files, validation, rule)
        last_place = _find_cut(connection, sample_bytes)
        for part in part_files:
            values = {"part": parquet_path(part), "last_place": last_place, **rule}
            with reading(part):
                yield from _stream(connection, values, held_out)


def _collect_sizes(
    connection: DuckDBPyConnection,
    part_files: Sequence[Path],
    validation: Path,
    rule: dict[str, int],
) -> set[tuple[str, int]]:
    connection.execute("CREATE TEMP TABLE sizes (place UUID, num_bytes BIGINT)")
    for part in part_files:
        with reading(part):
            connection.execute(_ADD_SIZES, {"part": parquet_path(part), **rule})
    values = {"validation": parquet_path(validation)}
    with reading(validation):
        connection.execute(_EXCLUDE_VALIDATION, {"seed": rule["seed"], **values})
        return set(connection.execute(_VALIDATION_ROWS, values).fetchall())


def _find_cut(connection: DuckDBPyConnection, sample_bytes: int) -> UUID:
    last_place, num_documents, num_bytes = fetch_one(
        connection, read_sql("sample_threshold"), {"sample_bytes": sample_bytes}
    )
    num_available, bytes_available = fetch_one(
        connection, "SELECT count(*), coalesce(sum(num_bytes), 0)::BIGINT FROM sizes"
    )
    if last_place is None:
        raise CorpusError(
            "there is no text to train the tokenizer on",
            expected=f"documents within {sample_bytes:,} bytes (tokenizer.sample_bytes)",
            found=f"{num_available:,} documents that are not held out for validation, "
            f"{bytes_available:,} bytes",
            fix="raise tokenizer.sample_bytes, loosen the filter, or lower "
            "validation.num_documents",
        )
    logging.getLogger(__name__).info(
        "sample: %d of %d documents, %d of %d bytes",
        num_documents,
        num_available,
        num_bytes,
        bytes_available,
    )
    return last_place


def _stream(
    connection: DuckDBPyConnection, values: dict[str, Any], held_out: set[tuple[str, int]]
) -> Iterator[str]:
    max_bytes: int = values["max_document_bytes"]
    for batch in connection.sql(_TEXTS, params=values).to_arrow_reader(BATCH_DOCUMENTS):
        for document in batch.to_pylist():
            if (document["file"], document["row"]) not in held_out:
                yield document["text"].encode()[:max_bytes].decode(errors="ignore")
