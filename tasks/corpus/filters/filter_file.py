"""Filter one raw file: drop documents, each with one reason, edit others, and count both.

Language and length always decide; the profiles ``fineweb`` and ``strict`` apply the quality rules
as well, which also edit lines. Text streams through (``filter_stream``), rows keep their order, and
the bytes written do not depend on threads.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.duckdb_connection import Limits, fetch_one, parquet_path, reading
from tasks.corpus.filters.filter_stream import Edits, stream_documents
from tasks.corpus.filters.quality import REASONS as QUALITY_REASONS

LIGHT_REASONS = ("null_text", "empty_text", "language", "language_score", "too_short", "too_long")

_COUNT_REASONS = """
SELECT reason, count(*)
FROM read_parquet($rejected, hive_partitioning = false)
GROUP BY reason
"""
_COUNT_PART = """
SELECT count(*)
FROM read_parquet($part, hive_partitioning = false)
"""
_COUNT_RAW = """
SELECT count(*), count(*) FILTER (WHERE language IS NULL OR language_score IS NULL)
FROM read_parquet($raw, hive_partitioning = false)
"""
_MEASURE_TEXT = """
SELECT coalesce(sum(total_uncompressed_size), 0)
FROM parquet_metadata($raw)
WHERE path_in_schema = 'text'
"""


@dataclass(frozen=True)
class FilterCounts:
    """Where the documents of one raw file went.

    Args:
        num_dropped: documents per reason, every reason of the profile present, in its order.
        num_language_unknown: raw documents that came without a language label or score.
        text_bytes: uncompressed text read, about.
        edits: of the text of documents that were kept.
    """

    num_in: int
    num_kept: int
    num_dropped: dict[str, int]
    num_language_unknown: int
    text_bytes: int
    edits: Edits = field(default_factory=Edits)

    def funnel(self) -> str:
        """Return the counts as lines of text, from what came in to what is left."""
        lines = [f"{self.num_in:>12,} documents in"]
        lines += [f"{-count:>12,} {reason}" for reason, count in self.num_dropped.items() if count]
        lines += [f"{self.num_kept:>12,} kept"]
        if self.edits.num_documents:
            lines += [f"{self.edits.num_documents:>12,} of them edited"]
            lines += [
                f"{-count:>12,} lines {reason}"
                for reason, count in self.edits.dropped_lines.items()
                if count
            ]
        return "\n".join(lines)


def reasons_of(config: FilterConfig) -> tuple[str, ...]:
    """Return the reasons that a profile may drop documents for, in the order they are judged."""
    return LIGHT_REASONS if config.profile == "light" else (*LIGHT_REASONS, *QUALITY_REASONS)


def filter_file(
    raw: Path,
    *,
    file: str,
    config: FilterConfig,
    personal_data: PersonalDataConfig | None = None,
    destination: Path,
    limits: Limits,
) -> FilterCounts:
    """Write ``part.parquet`` (kept) and ``rejected.parquet`` (one reason each) of one raw file.

    Args:
        raw: parquet with FineWeb's nine columns.
        file: the name of the file inside its source, written in column ``file``.
        personal_data: what happens to it; unset takes the defaults.
        destination: an existing directory.

    Raises:
        SourceError: the raw file cannot be read.
        CorpusError: a larger share than ``config.max_dropped_frac`` would be dropped.
    """
    started = time.perf_counter()
    edits = stream_documents(
        raw,
        file=file,
        config=config,
        personal_data=personal_data or PersonalDataConfig(),
        destination=destination,
        limits=limits,
    )
    with limits.connect() as connection, reading(raw):
        counts = _count(connection, raw, config=config, destination=destination, edits=edits)
    _log(counts, file=file, seconds=time.perf_counter() - started)
    _refuse_to_drop_too_much(counts, config=config, file=file, destination=destination)
    return counts


def _count(
    connection: DuckDBPyConnection,
    raw: Path,
    *,
    config: FilterConfig,
    destination: Path,
    edits: Edits,
) -> FilterCounts:
    part, rejected = destination / "part.parquet", destination / "rejected.parquet"
    values = {"raw": parquet_path(raw)}
    found = dict(
        connection.execute(_COUNT_REASONS, {"rejected": parquet_path(rejected)}).fetchall()
    )
    (num_kept,) = fetch_one(connection, _COUNT_PART, {"part": parquet_path(part)})
    num_in, num_language_unknown = fetch_one(connection, _COUNT_RAW, values)
    (text_bytes,) = fetch_one(connection, _MEASURE_TEXT, values)
    reasons = reasons_of(config)
    assert set(found) <= set(reasons), f"a reason is not declared: {sorted(found)}"
    assert num_in == num_kept + sum(found.values()), f"{num_in} != {num_kept} + {found}"
    return FilterCounts(
        num_in=num_in,
        num_kept=num_kept,
        num_dropped={reason: found.get(reason, 0) for reason in reasons},
        num_language_unknown=num_language_unknown,
        text_bytes=int(text_bytes),
        edits=edits,
    )


def _refuse_to_drop_too_much(
    counts: FilterCounts, *, config: FilterConfig, file: str, destination: Path
) -> None:
    dropped = counts.num_in - counts.num_kept
    if dropped <= config.max_dropped_frac * counts.num_in:
        return
    rejected = (destination / "rejected.parquet").absolute()
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
