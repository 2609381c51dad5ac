"""Filter one raw file in a single pass: drop documents, each with one reason, and edit others.

    raw -> batches -> missing languages -> light rules (SQL) -> quality rules and line edits
        -> personal data -> part.parquet; dropped documents -> rejected.parquet

Language and length always apply; the profiles ``fineweb`` and ``strict`` apply the quality rules
as well. Rows keep their order. Memory holds one batch and the rejected rows, which have no text.
Row groups are cut by the rows kept, so the bytes written depend on neither threads nor timing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.arrow_columns import replaced
from tasks.corpus.duckdb_connection import (
    TEXT_ROW_GROUP_ROWS,
    Limits,
    parquet_path,
    read_sql,
    reading,
)
from tasks.corpus.filters.language import score_missing_languages
from tasks.corpus.filters.personal_data import edit_personal_data
from tasks.corpus.filters.quality import REASONS as QUALITY_REASONS
from tasks.corpus.filters.quality import apply_quality_rules
from tasks.corpus.filters.quality_lines import LINE_REASONS
from tasks.corpus.sources.fineweb_schema import DOCUMENT_FIELDS, FINEWEB_SCHEMA

LIGHT_REASONS = ("null_text", "empty_text", "language", "language_score", "too_short", "too_long")
LIGHT_RULES = ("language", "min_language_score", "min_words", "max_words")
PART_NAME = "part.parquet"  # kept documents
REJECTED_NAME = "rejected.parquet"
BATCH_DOCUMENTS = 2_048  # DuckDB's own unit
ROW_GROUP_BYTES = 64_000_000
PART_SCHEMA = pa.schema([*FINEWEB_SCHEMA, ("file", pa.string()), ("row", pa.int64())])
REJECTED_SCHEMA = pa.schema([*DOCUMENT_FIELDS, ("reason", pa.string()), ("detail", pa.string())])

_DOCUMENTS = """
SELECT
    text, id, dump, url, date, file_path, language, language_score, token_count,
    $file AS file,
    file_row_number AS row
FROM read_parquet($raw, file_row_number = true, hive_partitioning = false)
"""
_LIGHT_VERDICTS = """
WITH verdicts AS (
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
FROM verdicts
ORDER BY row
"""


@dataclass
class FilterCounts:
    """Counts of kept, dropped and edited documents, counted while they are written."""

    # Documents per reason, every reason of the profile present, in its order.
    num_dropped: dict[str, int]
    num_in: int = 0
    num_kept: int = 0
    num_language_unknown: int = 0  # raw documents that came without a language label or score
    num_languages_scored: int = 0  # of these, documents that got both
    text_bytes: int = 0  # approximate size of the uncompressed text
    # Of kept documents: "documents" that changed, "citations" removed, and "lines: " with a reason
    # of ``LINE_REASONS``.
    edits: Counter[str] = field(default_factory=Counter)
    # Pieces found in kept documents, by kind.
    personal_data: Counter[str] = field(default_factory=Counter)

    def funnel(self) -> str:
        """Return the counts as lines of text, from what came in to what is left."""
        lines = [f"{self.num_in:>12,} documents in"]
        lines += [f"{-count:>12,} {reason}" for reason, count in self.num_dropped.items() if count]
        lines += [f"{self.num_kept:>12,} kept"]
        if self.edits["documents"]:
            lines += [f"{self.edits['documents']:>12,} of them edited"]
            lines += [
                f"{-count:>12,} {name.replace(':', '')}"
                for name, count in self.edits.items()
                if name.startswith("lines") and count
            ]
        return "\n".join(lines)


def reasons_of(config: FilterConfig) -> tuple[str, ...]:
    """Return the reasons that a profile may drop documents for, in the order of the rules."""
    return LIGHT_REASONS if config.profile == "light" else (*LIGHT_REASONS, *QUALITY_REASONS)


def filter_file(
    raw: Path,
    *,
    file: str,
    config: FilterConfig,
    personal_data: PersonalDataConfig = PersonalDataConfig(),  # noqa: B008 - frozen
    destination: Path,
    limits: Limits,
) -> FilterCounts:
    """Write ``part.parquet`` (kept) and ``rejected.parquet`` (one reason each) of one raw file.

    Args:
        raw: parquet with FineWeb's nine columns.
        file: the name of the file inside its source, written in column ``file``.

    Raises:
        SourceError: the raw file cannot be read.
        CorpusError: a larger share than ``config.max_dropped_frac`` would be dropped.
        OSError: the disk is full; ``ArtifactStore.build`` raises DiskSpaceError for it.
    """
    started = time.perf_counter()
    counts = FilterCounts(num_dropped=dict.fromkeys(reasons_of(config), 0))
    light_rules = config.model_dump(include=set(LIGHT_RULES))
    limits_per_connection = replace(limits, memory_bytes=limits.memory_bytes // 2, threads=1)
    with (
        limits_per_connection.connect() as reader,
        limits_per_connection.connect() as rules_connection,
        pq.ParquetWriter(destination / PART_NAME, PART_SCHEMA, compression="zstd") as part,
    ):
        writer = _Writer(part, counts)
        rules_connection.execute(read_sql("light_rules"))
        for batch in _documents(reader, raw, file):
            _count_documents(batch, counts)
            if config.score_language == "missing":
                batch, num_scored = score_missing_languages(batch)
                counts.num_languages_scored += num_scored
            batch = _drop_by_light_rules(rules_connection, batch, light_rules, writer)
            if config.profile != "light":
                batch = _apply_quality_rules(batch, config, writer)
            writer.keep(_find_or_mask_personal_data(batch, personal_data, counts))
        writer.flush()
    pq.write_table(writer.rejected(), destination / REJECTED_NAME, compression="zstd")
    counts.text_bytes = _text_bytes(raw)
    assert counts.num_in == counts.num_kept + sum(counts.num_dropped.values()), counts
    _log(counts, file=file, seconds=time.perf_counter() - started)
    _refuse_to_drop_too_much(counts, config=config, file=file, destination=destination)
    return counts


def _documents(connection: DuckDBPyConnection, raw: Path, file: str) -> Iterator[pa.Table]:
    with reading(raw):
        values = {"raw": parquet_path(raw), "file": file}
        stream = connection.sql(_DOCUMENTS, params=values).to_arrow_reader(BATCH_DOCUMENTS)
        batches = iter(stream)
        while (batch := _next_batch(batches)) is not None:
            yield pa.Table.from_batches([batch]).cast(PART_SCHEMA)


def _next_batch(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the next batch; an Arrow error is raised as the DuckDB error that it wraps."""
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        message = str(error)
        if message.startswith("Out of Memory"):
            raise duckdb.OutOfMemoryException(message) from error
        raise duckdb.InvalidInputException(message) from error


def _count_documents(batch: pa.Table, counts: FilterCounts) -> None:
    is_unknown = pc.or_(batch["language"].is_null(), batch["language_score"].is_null())  # pyright: ignore[reportAttributeAccessIssue]
    counts.num_in += batch.num_rows
    counts.num_language_unknown += pc.sum(is_unknown).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]


def _text_bytes(raw: Path) -> int:
    metadata = pq.read_metadata(raw)
    column = metadata.schema.names.index("text")
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return sum(group.column(column).total_uncompressed_size for group in groups)


# --- one step each ------------------------------------------------------------------------------


def _drop_by_light_rules(
    connection: DuckDBPyConnection,
    batch: pa.Table,
    rules: Mapping[str, Any],
    writer: _Writer,
) -> pa.Table:
    """Return the documents of a batch that pass the rules of language and length."""
    connection.register("batch", batch)
    verdicts = connection.sql(_LIGHT_VERDICTS, params=dict(rules)).to_arrow_table()
    connection.unregister("batch")
    reasons = verdicts.column("reason")
    writer.reject(batch, reasons.to_pylist(), verdicts.column("detail").to_pylist())
    return batch.filter(reasons.is_null())


def _apply_quality_rules(batch: pa.Table, config: FilterConfig, writer: _Writer) -> pa.Table:
    """Return the documents that pass the quality rules, their lines edited."""
    texts = batch.column("text").to_pylist()
    outcome = apply_quality_rules(texts, terminal_punctuation=config.profile == "strict")
    writer.reject(batch, outcome.reasons, outcome.details)
    is_kept = np.array([reason is None for reason in outcome.reasons], dtype=bool)
    is_edited = np.array(
        [before != after for before, after in zip(texts, outcome.texts, strict=True)], dtype=bool
    )
    edits = writer.counts.edits
    edits["documents"] += int((is_edited & is_kept).sum())
    edits["citations"] += int(outcome.num_citations[is_kept].sum())
    for reason, count in zip(LINE_REASONS, outcome.dropped_lines[is_kept].sum(axis=0), strict=True):
        edits[f"lines: {reason}"] += int(count)
    edited = replaced(batch, "text", pa.array(outcome.texts, pa.string()))
    return edited.filter(pa.array(is_kept))


def _find_or_mask_personal_data(
    batch: pa.Table, config: PersonalDataConfig, counts: FilterCounts
) -> pa.Table:
    if config.action == "keep":
        return batch
    texts, num_found = edit_personal_data(batch.column("text").combine_chunks(), config)
    counts.personal_data.update(num_found)
    return replaced(batch, "text", texts)


# --- output -------------------------------------------------------------------------------------


class _Writer:
    """Writes part.parquet as documents come, holds the rejected ones, and counts both."""

    def __init__(self, part: pq.ParquetWriter, counts: FilterCounts) -> None:
        self.counts = counts
        self._part = part
        self._pending: list[pa.Table] = []
        self._rejected: list[pa.Table] = []

    def keep(self, batch: pa.Table) -> None:
        """Append documents."""
        self.counts.num_kept += batch.num_rows
        self._pending.append(batch)
        num_rows = sum(table.num_rows for table in self._pending)
        num_bytes = sum(table.nbytes for table in self._pending)
        if num_rows >= TEXT_ROW_GROUP_ROWS or num_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def reject(self, batch: pa.Table, reasons: list[str | None], details: list[str | None]) -> None:
        """Record the documents of a batch that have a reason."""
        for reason, count in Counter(filter(None, reasons)).items():
            self.counts.num_dropped[reason] += count
        columns = {
            **{name: batch.column(name) for name in ("file", "row", "id")},
            "reason": pa.array(reasons, pa.string()),
            "detail": pa.array(details, pa.string()),
        }
        table = pa.table(columns, schema=REJECTED_SCHEMA)
        self._rejected.append(table.filter(table.column("reason").is_valid()))

    def flush(self) -> None:
        """Write a row group of the documents appended since the last one."""
        table = pa.concat_tables([PART_SCHEMA.empty_table(), *self._pending]).combine_chunks()
        if table.num_rows:
            self._part.write_table(table, row_group_size=table.num_rows)
        self._pending = []

    def rejected(self) -> pa.Table:
        """Return the rejected documents in row order."""
        table = pa.concat_tables([REJECTED_SCHEMA.empty_table(), *self._rejected])
        return table.sort_by("row").combine_chunks()


def _refuse_to_drop_too_much(
    counts: FilterCounts, *, config: FilterConfig, file: str, destination: Path
) -> None:
    dropped = counts.num_in - counts.num_kept
    if dropped <= config.max_dropped_frac * counts.num_in:
        return
    rejected = (destination / REJECTED_NAME).absolute()
    raise CorpusError(
        f"the filter drops {dropped / counts.num_in:.1%} of a file",
        expected=f"at most {config.max_dropped_frac:.1%} (filter.max_dropped_frac)",
        found=f"\n{counts.funnel()}",
        where=file,
        fix=f"look at {rejected}, then loosen the filter setting of the largest reason, "
        "correct the source, or raise filter.max_dropped_frac",
    )


def _log(counts: FilterCounts, *, file: str, seconds: float) -> None:
    logging.getLogger(__name__).info(
        "%s: %d of %d documents kept%s, %.0f MB/s of text",
        file,
        counts.num_kept,
        counts.num_in,
        " (nothing dropped)" if counts.num_kept == counts.num_in else "",
        counts.text_bytes / 1e6 / max(seconds, 1e-9),
    )
