"""Decide over all files which documents are removed as duplicates of others.

In this order, each step on what the one before left: copies of validation rows, documents that
contain text of an evaluation set, other copies, near-duplicates (``near_duplicates``, of validation
rows too). ``removed.parquet`` gets one row for each, with the document kept in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from model.core.outputs import DropCounts, Facts
from tasks.config.corpus import DedupConfig
from tasks.corpus.dedup.near_duplicates import (
    NearDuplicateSearch,
    SignedFile,
    remove_near_duplicates,
)
from tasks.corpus.duckdb_connection import (
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)

REMOVED_NAME = "removed.parquet"
CLUSTERS_NAME = "clusters.parquet"
KINDS = ("validation", "contaminated", "exact", "normalised", "near")

_COUNT_SIGNATURES = "SELECT count(*) FROM read_parquet($signatures, hive_partitioning = false)"
_COUNT_KINDS = "SELECT kind, count(*) FROM removed GROUP BY kind"
_REMOVED_IN_ORDER = "SELECT * FROM removed ORDER BY file, row"


class ClusterFacts(Facts):
    """Groups of two or more documents, the kept one included, and the search for near ones."""

    num_clusters: int
    near: NearDuplicateSearch


def cluster_duplicates(
    files: Sequence[SignedFile],
    validation: Path,
    *,
    contaminated: Sequence[Path] = (),
    config: DedupConfig,
    destination: Path,
    limits: Limits,
) -> tuple[DropCounts, ClusterFacts]:
    """Write ``removed.parquet`` and ``clusters.parquet`` of all files together.

    A copy or near-duplicate of a validation row is removed whatever ``config.match`` says, so that
    scores of models of one source are comparable. Another document is removed in favour of the
    first one in keep order that it matches: highest language score, most characters, latest date
    (unknown ones last), then file and row. Neither the order of the files nor the number of
    threads changes a byte.

    Args:
        files: every filtered file with its signatures.
        validation: ``validation.parquet``.
        contaminated: ``contaminated.parquet`` of every file.

    Raises:
        SourceError: one of the files cannot be read.
        CorpusError: a larger share than ``config.max_removed_frac`` would be removed.
    """
    signatures = [file.signatures for file in files]
    with limits.connect() as connection:
        _remove_copies_of_validation(connection, signatures, validation)
        _remove_contaminated(connection, contaminated)
        if config.match != "none":
            keys = "exact" if config.match == "exact" else "normalised"
            remove_copies(connection, signatures, match=keys)
        near = remove_near_duplicates(
            connection, files, validation, config=config, spill_directory=limits.spill_directory
        )
        with reading(*signatures):
            values = {"signatures": [parquet_path(path) for path in signatures]}
            (num_in,) = fetch_one(connection, _COUNT_SIGNATURES, values)
        counts, num_clusters = _write(connection, num_in=num_in, destination=destination)
    logging.getLogger(__name__).info(
        "%d of %d documents kept in %d groups of copies; removed: %s",
        counts.num_kept,
        counts.num_in,
        num_clusters,
        counts.dropped if counts.num_kept < counts.num_in else "none at all",
    )
    _refuse_to_remove_too_much(counts, config, destination)
    return counts, ClusterFacts(num_clusters=num_clusters, near=near)


def _remove_copies_of_validation(
    connection: DuckDBPyConnection, signature_files: Sequence[Path], validation: Path
) -> None:
    """Create the table ``removed`` with the copies, by text or by words, of validation rows."""
    with reading(validation):
        connection.execute(read_sql("validation_keys"), {"validation": parquet_path(validation)})
    with reading(*signature_files):
        signatures = [parquet_path(path) for path in signature_files]
        connection.execute(read_sql("validation_copies"), {"signatures": signatures})


def remove_copies(
    connection: DuckDBPyConnection, signature_files: Sequence[Path], *, match: str
) -> None:
    """Add to the table ``removed`` all copies of a text but the first in keep order.

    Args:
        match: the key to compare, ``exact`` or ``normalised``.
    """
    with reading(*signature_files):
        signatures = [parquet_path(path) for path in signature_files]
        connection.execute(read_sql("copies"), {"signatures": signatures, "match": match})
    connection.execute(read_sql("removed_copies"))


def _remove_contaminated(connection: DuckDBPyConnection, contaminated: Sequence[Path]) -> None:
    with reading(*contaminated):
        for path in contaminated:
            values = {"contaminated": parquet_path(path)}
            connection.execute(read_sql("removed_contaminated"), values)


def _write(
    connection: DuckDBPyConnection, *, num_in: int, destination: Path
) -> tuple[DropCounts, int]:
    """Write both tables, and return the counts and the number of clusters."""
    found = dict(connection.execute(_COUNT_KINDS).fetchall())
    num_removed = write_parquet(
        connection, _REMOVED_IN_ORDER, values={}, destination=destination / REMOVED_NAME
    )
    num_clusters = write_parquet(
        connection, read_sql("clusters"), values={}, destination=destination / CLUSTERS_NAME
    )
    assert set(found) <= set(KINDS), f"a kind is not declared: {sorted(found)}"
    assert num_removed == sum(found.values()) <= num_in, f"{num_removed}, {found}, {num_in}"
    kinds = {kind: found.get(kind, 0) for kind in KINDS}
    return DropCounts(num_in=num_in, num_kept=num_in - num_removed, **kinds), num_clusters


def _refuse_to_remove_too_much(counts: DropCounts, config: DedupConfig, destination: Path) -> None:
    removed = counts.num_in - counts.num_kept
    if removed <= config.max_removed_frac * counts.num_in:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.dropped.items() if count)
    raise CorpusError(
        f"deduplication removes {removed / counts.num_in:.1%} of the documents",
        expected=f"at most {config.max_removed_frac:.1%} (dedup.max_removed_frac)",
        found=f"{removed:,} of {counts.num_in:,} documents ({kinds})",
        where=destination / REMOVED_NAME,
        fix="look at this table and clusters.parquet beside it; then change dedup.match, lower "
        "validation.num_documents if it is most of the source, or raise dedup.max_removed_frac",
    )
