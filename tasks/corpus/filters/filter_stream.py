"""Filter one raw file in a single pass: read, label, judge, edit and write.

Text streams through in batches, so memory does not grow with the file; only the rejected rows,
which hold no text, are kept until the end. Row groups are cut by the rows kept, so the bytes
written depend on neither threads nor timing.

    raw -> batches -> missing languages -> light rules (SQL) -> quality rules and line edits
        -> personal data -> part.parquet; what a rule drops -> rejected.parquet
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.duckdb_connection import (
    TEXT_ROW_GROUP_ROWS,
    Limits,
    parquet_path,
    read_sql,
    reading,
)
from tasks.corpus.filters.language import score_missing_languages
from tasks.corpus.filters.personal_data import edit_personal_data
from tasks.corpus.filters.quality import QualityOutcome, apply_quality_rules
from tasks.corpus.filters.quality_lines import LINE_REASONS
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

LIGHT_RULES = ("language", "min_language_score", "min_words", "max_words")
BATCH_DOCUMENTS = 2_048  # DuckDB's own unit
ROW_GROUP_BYTES = 64_000_000
PART_SCHEMA = pa.schema([*FINEWEB_SCHEMA, ("file", pa.string()), ("row", pa.int64())])
REJECTED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

_DOCUMENTS = """
SELECT
    text, id, dump, url, date, file_path, language, language_score, token_count,
    $file AS file,
    file_row_number AS row
FROM read_parquet($raw, file_row_number = true, hive_partitioning = false)
"""
_LIGHT_VERDICTS = """
WITH judged AS (
    SELECT
        *,
        light_reason(
            text, language, language_score,
            $language, $min_language_score, $min_words, $max_words
        ) AS reason
    FROM batch
)
SELECT
    reason,
    light_detail(
        reason, text, language, language_score, $min_language_score, $min_words, $max_words
    ) AS detail
FROM judged
ORDER BY row
"""


@dataclass
class Edits:
    """What was done to the documents besides dropping them.

    Args:
        num_documents: kept documents whose lines were edited.
        num_citations: citation marks removed from them.
        dropped_lines: their lines that went, by reason, those of ``LINE_REASONS`` that met one.
        num_languages: documents that came without language or score and got both.
        personal_data: pieces found in kept documents, by kind.
    """

    num_documents: int = 0
    num_citations: int = 0
    dropped_lines: Counter[str] = field(default_factory=Counter)
    num_languages: int = 0
    personal_data: Counter[str] = field(default_factory=Counter)

    def numbers(self) -> dict[str, int]:
        """Return the edits by name, those that occurred."""
        numbers = {
            "documents": self.num_documents,
            "citations": self.num_citations,
            **{f"lines: {reason}": count for reason, count in self.dropped_lines.items()},
        }
        return {name: count for name, count in numbers.items() if count}

    def add(self, outcome: QualityOutcome) -> None:
        """Count the edits of the documents of a batch that stay."""
        stays = np.array([reason is None for reason in outcome.reasons], dtype=bool)
        self.num_documents += int(np.sum(np.array(outcome.is_edited, dtype=bool) & stays))
        self.num_citations += int(outcome.num_citations[stays].sum())
        lines = outcome.dropped_lines[stays].sum(axis=0).tolist()
        self.dropped_lines.update(dict(zip(LINE_REASONS, lines, strict=True)))


def stream_documents(
    raw: Path,
    *,
    file: str,
    config: FilterConfig,
    personal_data: PersonalDataConfig,
    destination: Path,
    limits: Limits,
) -> Edits:
    """Write ``part.parquet`` and ``rejected.parquet`` of one raw file.

    Args:
        file: the name of the file inside its source.

    Raises:
        SourceError: the raw file cannot be read.
        OSError: the disk is full; whoever builds the artifact says so.
    """
    edits = Edits()
    rules = config.model_dump(include=set(LIGHT_RULES))
    half = replace(limits, memory_bytes=limits.memory_bytes // 2, threads=1)
    with half.connect() as reader, half.connect() as judging, _Writer(destination) as writer:
        judging.execute(read_sql("light_rules"))
        for batch in _documents(reader, raw, file):
            if config.score_language == "missing":
                batch = _with_languages(batch, edits)
            batch = _drop_by_light_rules(judging, batch, rules, writer)
            if config.profile != "light":
                batch = _edit_by_quality(batch, config, edits, writer)
            writer.keep(_without_personal_data(batch, personal_data, edits))
    return edits


def _with_languages(batch: pa.Table, edits: Edits) -> pa.Table:
    """Return the batch with label and score where they were missing."""
    text, language, score = (
        batch.column(name).combine_chunks() for name in ("text", "language", "language_score")
    )
    found = score_missing_languages(text, language=language, language_score=score)
    edits.num_languages += found.num_scored
    for name, column in (
        ("language", found.language),
        ("language_score", found.language_score),
    ):
        batch = _replaced(batch, name, column)
    return batch


def _edit_by_quality(
    batch: pa.Table, config: FilterConfig, edits: Edits, writer: _Writer
) -> pa.Table:
    """Return the documents that the quality rules let pass, their lines edited."""
    texts = batch.column("text").to_pylist()
    outcome = apply_quality_rules(texts, terminal_punctuation=config.profile == "strict")
    edits.add(outcome)
    writer.reject(batch, outcome.reasons, outcome.details)
    stays = pa.array([reason is None for reason in outcome.reasons], pa.bool_())
    return _replaced(batch, "text", pa.array(outcome.texts, pa.string())).filter(stays)


def _without_personal_data(batch: pa.Table, config: PersonalDataConfig, edits: Edits) -> pa.Table:
    if config.action == "keep":
        return batch
    found = edit_personal_data(batch.column("text").combine_chunks(), config)
    edits.personal_data.update(found.num_spans)
    return _replaced(batch, "text", found.texts)


def _replaced(batch: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, PART_SCHEMA.field(name), column)


def _documents(connection: DuckDBPyConnection, raw: Path, file: str) -> Iterator[pa.Table]:
    with reading(raw):
        values = {"raw": parquet_path(raw), "file": file}
        stream = connection.sql(_DOCUMENTS, params=values).to_arrow_reader(BATCH_DOCUMENTS)
        batches = iter(stream)
        while (batch := _next_batch(batches)) is not None:
            yield pa.Table.from_batches([batch]).cast(PART_SCHEMA)


def _next_batch(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the next batch; what Arrow says of a broken file is DuckDB's own error again."""
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        message = str(error)
        if message.startswith("Out of Memory"):
            raise duckdb.OutOfMemoryException(message) from error
        raise duckdb.InvalidInputException(message) from error


def _drop_by_light_rules(
    connection: DuckDBPyConnection,
    batch: pa.Table,
    rules: Mapping[str, Any],
    writer: _Writer,
) -> pa.Table:
    """Return the documents of a batch that language and length let pass; reject the others."""
    connection.register("batch", batch)
    verdicts = connection.sql(_LIGHT_VERDICTS, params=dict(rules)).to_arrow_table()
    connection.unregister("batch")
    reasons = verdicts.column("reason")
    writer.reject(batch, reasons.to_pylist(), verdicts.column("detail").to_pylist())
    return batch.filter(reasons.is_null())


class _Writer:
    """Writes part.parquet as documents come, and rejected.parquet at the end."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._pending: list[pa.Table] = []
        self._rejected: list[pa.Table] = []

    def __enter__(self) -> Self:
        path = self._destination / "part.parquet"
        self._part = pq.ParquetWriter(path, PART_SCHEMA, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._write_rejected()
        finally:
            self._part.close()

    def keep(self, batch: pa.Table) -> None:
        """Append documents."""
        self._pending.append(batch)
        num_rows = sum(table.num_rows for table in self._pending)
        num_bytes = sum(table.nbytes for table in self._pending)
        if num_rows >= TEXT_ROW_GROUP_ROWS or num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def reject(self, batch: pa.Table, reasons: list[str | None], details: list[str | None]) -> None:
        """Note the documents of a batch that have a reason."""
        columns = {
            **{name: batch.column(name) for name in ("file", "row", "id")},
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
        }
        table = pa.table(columns, schema=REJECTED_SCHEMA)
        self._rejected.append(table.filter(table.column("reason").is_valid()))

    def _flush(self) -> None:
        table = pa.concat_tables([PART_SCHEMA.empty_table(), *self._pending]).combine_chunks()
        if table.num_rows:
            self._part.write_table(table, row_group_size=table.num_rows)
        self._pending = []

    def _write_rejected(self) -> None:
        table = pa.concat_tables([REJECTED_SCHEMA.empty_table(), *self._rejected])
        table = table.sort_by("row").combine_chunks()
        pq.write_table(table, self._destination / "rejected.parquet", compression="zstd")
