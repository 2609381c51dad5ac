"""Score kept documents with the quality model, and select documents by their scores.

``score_file`` reads the text of one filtered file; ``select_documents`` reads only scores, of all
files at once, after duplicates are removed. It drops documents of low quality, then caps the share
of each domain, of which the highest scores are kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from model.core.outputs import DropCounts, Facts
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.linear_model import Featurizer, QualityModel
from tasks.corpus.duckdb_connection import (
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)
from tasks.corpus.sources.fineweb_schema import DOCUMENT_FIELDS
from tasks.corpus.sources.raw_file import open_parquet

SCORES_NAME = "scores.parquet"
REMOVED_NAME = "removed_quality.parquet"
REASONS = ("low_quality", "domain_cap")
SCORES_SCHEMA = pa.schema([*DOCUMENT_FIELDS, ("domain", pa.string()), ("score", pa.float32())])
BATCH_ROWS = 1_024
NUM_SHOWN_DOMAINS = 10

_DOMAINS = "SELECT file, row, id, domain_of(url) AS domain FROM batch"
_CUT = """
SELECT score, file, row
FROM candidates
ORDER BY score DESC, file, row
LIMIT 1 OFFSET $num_before
"""
_DOMAIN_SIZES = """
SELECT size, count(*)
FROM (SELECT count(*) AS size FROM scored WHERE passed AND domain IS NOT NULL GROUP BY domain)
GROUP BY size
"""
_TOP_DOMAINS = """
SELECT domain, count(*)
FROM candidates
ANTI JOIN (
    SELECT file, row
    FROM read_parquet($removed, hive_partitioning = false)
    WHERE $without_removed
) USING (file, row)
WHERE domain IS NOT NULL
GROUP BY domain
ORDER BY count(*) DESC, domain
LIMIT $most
"""
_COUNT_REASONS = """
SELECT reason, count(*)
FROM read_parquet($removed, hive_partitioning = false)
GROUP BY reason
"""


class SelectionFacts(Facts):
    """The lowest score kept, and the largest domains before and after.

    Args:
        cut_score: before domains were capped.
        most_of_domain: documents of one domain that are kept at most; None without a cap.
    """

    cut_score: float
    most_of_domain: int | None
    domains_before: dict[str, int]
    domains_after: dict[str, int]


def score_file(part: Path, model: Path, *, destination: Path, limits: Limits) -> int:
    """Write ``scores.parquet`` of one filtered file in row order, and return its documents.

    Args:
        part: ``part.parquet`` of the filter.
        model: directory of a quality model.

    Raises:
        ArtifactError: the model cannot be read.
        SourceError: ``part`` cannot be read.
    """
    quality = QualityModel.load(model)
    featurizer = Featurizer(quality.feature_bits)
    num_documents = 0
    with (
        limits.connect() as connection,
        open_parquet(part, where=part, pre_buffer=False) as parquet,
        pq.ParquetWriter(destination / SCORES_NAME, SCORES_SCHEMA, compression="zstd") as out,
    ):
        connection.execute(read_sql("domain_of"))
        columns = ["file", "row", "id", "url", "text"]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            texts = batch.column("text").to_pylist()
            scores = quality.scores([featurizer.features(text) for text in texts])
            connection.register("batch", pa.Table.from_batches([batch.drop_columns("text")]))
            scored = connection.sql(_DOMAINS).to_arrow_table()
            scored = scored.append_column("score", pa.array(scores, pa.float32()))
            out.write_table(scored.cast(SCORES_SCHEMA))
            num_documents += batch.num_rows
    return num_documents


def select_documents(
    score_files: Sequence[Path],
    removed: Sequence[Path],
    *,
    config: QualityModelConfig,
    destination: Path,
    limits: Limits,
) -> tuple[DropCounts, SelectionFacts]:
    """Write ``removed_quality.parquet`` (file, row, id, score, reason) of all files together.

    Equal scores are told apart by file and row, so ``top_fraction`` keeps exactly its share, and
    neither the order of the files nor the number of threads changes a byte.

    Args:
        score_files: ``scores.parquet`` of every file.
        removed: tables of (file, row) of documents removed before.

    Raises:
        SourceError: one of the files cannot be read.
        CorpusError: a larger share than ``config.max_removed_frac`` would be removed, or there are
            too few domains for ``config.max_domain_frac``.
    """
    table = destination / REMOVED_NAME
    with limits.connect() as connection, reading(*score_files, *removed):
        values = {
            "scores": [parquet_path(path) for path in score_files],
            "removed": [parquet_path(path) for path in removed],
        }
        connection.execute(read_sql("quality_candidates"), values)
        (num_in,) = fetch_one(connection, "SELECT count(*) FROM candidates")
        cut = _cut(connection, num_in, config=config)
        names = ("cut_score", "cut_file", "cut_row")
        connection.execute(read_sql("quality_passed"), dict(zip(names, cut, strict=True)))
        most = _most_of_domain(connection, config)
        write_parquet(
            connection,
            read_sql("quality_removed"),
            values={"most": num_in if most is None else most},
            destination=table,
        )
        counts = _counts(connection, num_in, table=table)
        facts = SelectionFacts(
            cut_score=cut[0],
            most_of_domain=most,
            domains_before=_top_domains(connection, table, without_removed=False),
            domains_after=_top_domains(connection, table, without_removed=True),
        )
    logging.getLogger(__name__).info(
        "%d of %d documents kept, down to score %.3f; removed: %s",
        counts.num_kept,
        num_in,
        facts.cut_score,
        counts.dropped if counts.num_kept < num_in else "none at all",
    )
    _refuse_to_remove_too_much(counts, config)
    return counts, facts


def domain_cap(num_free: int, sizes: dict[int, int], max_frac: float) -> int:
    """Return how many documents to keep per domain, so that none has more than ``max_frac``.

    The largest ``most`` with ``most <= max_frac * (documents left when each domain keeps at most
    ``most``)``; the right side is concave in ``most``, so all smaller numbers satisfy it too.

    Args:
        num_free: documents under no cap.
        sizes: size of a domain -> number of such domains.

    Example:
        >>> domain_cap(0, {100: 1, 10: 9}, 0.25)
        30
    """

    def holds(most: int) -> bool:
        left = num_free + sum(min(size, most) * count for size, count in sizes.items())
        return most <= max_frac * left

    low, high = 0, max(sizes, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _cut(
    connection: DuckDBPyConnection, num_in: int, *, config: QualityModelConfig
) -> tuple[float, str | None, int | None]:
    """Return score, file and row of the last document that passes; no file: all of that score."""
    if config.select == "threshold" or not num_in:
        return config.min_score, None, None
    num_wanted = math.ceil(config.top_frac * num_in)
    score, file, row = fetch_one(connection, _CUT, {"num_before": num_wanted - 1})
    return score, file, row


def _most_of_domain(connection: DuckDBPyConnection, config: QualityModelConfig) -> int | None:
    if config.max_domain_frac == 1:
        return None
    sizes = dict(connection.execute(_DOMAIN_SIZES).fetchall())
    (num_free,) = fetch_one(
        connection, "SELECT count(*) FROM scored WHERE passed AND domain IS NULL"
    )
    most = domain_cap(num_free, sizes, config.max_domain_frac)
    if sizes and not most:
        raise CorpusError(
            "there are too few domains for so small a share of each",
            expected=f"at most {config.max_domain_frac:.2%} of the documents from each "
            "(quality_model.max_domain_frac)",
            found=f"{sum(sizes.values()):,} domains",
            fix="raise quality_model.max_domain_frac",
        )
    return most


def _counts(connection: DuckDBPyConnection, num_in: int, *, table: Path) -> DropCounts:
    found = dict(connection.execute(_COUNT_REASONS, {"removed": parquet_path(table)}).fetchall())
    assert set(found) <= set(REASONS), f"a reason is not declared: {sorted(found)}"
    reasons = {reason: found.get(reason, 0) for reason in REASONS}
    return DropCounts(num_in=num_in, num_kept=num_in - sum(found.values()), **reasons)


def _top_domains(
    connection: DuckDBPyConnection, table: Path, *, without_removed: bool
) -> dict[str, int]:
    values = {
        "removed": parquet_path(table),
        "without_removed": without_removed,
        "most": NUM_SHOWN_DOMAINS,
    }
    return dict(connection.execute(_TOP_DOMAINS, values).fetchall())


def _refuse_to_remove_too_much(counts: DropCounts, config: QualityModelConfig) -> None:
    num_removed = counts.num_in - counts.num_kept
    if num_removed <= config.max_removed_frac * counts.num_in:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.dropped.items())
    raise CorpusError(
        f"the selection by quality removes {num_removed / counts.num_in:.1%} of the documents",
        expected=f"at most {config.max_removed_frac:.1%} (quality_model.max_removed_frac)",
        found=f"{num_removed:,} of {counts.num_in:,} documents ({reasons})",
        fix="lower quality_model.min_score, raise top_frac or max_domain_frac, "
        "or raise quality_model.max_removed_frac",
    )
