"""Find documents with the same text, or the same words, and name one survivor of each group.

``write_signatures`` reads the text of one filtered file and keeps 128-bit keys of it;
``cluster_duplicates`` sees only keys, of all files at once, and decides. Near-duplicates are not
its business. What the keys mean is written in ``sql/normalise.sql`` and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duckdb import DuckDBPyConnection

from model.errors import CorpusError
from tasks.config import DedupConfig
from tasks.corpus.duck import (
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)

KINDS = ("validation", "exact", "normalised")

_COUNT_SIGNATURES = "SELECT count(*) FROM read_parquet($signatures, hive_partitioning = false)"
_COUNT_CHARS = """
SELECT coalesce(sum(num_chars), 0)
FROM read_parquet($signatures, hive_partitioning = false)
"""
_COUNT_KINDS = "SELECT kind, count(*) FROM removed GROUP BY kind"
_REMOVED_IN_ORDER = "SELECT * FROM removed ORDER BY file, row"


@dataclass(frozen=True)
class SignatureCounts:
    """What one signatures file holds."""

    num_documents: int
    num_chars: int


@dataclass(frozen=True)
class DuplicateCounts:
    """What deduplication decided over all files.

    Args:
        num_removed: documents per kind, every kind of ``KINDS`` present, in that order.
        num_clusters: groups of two or more documents, the survivor included.
    """

    num_in: int
    num_kept: int
    num_removed: dict[str, int]
    num_clusters: int


def write_signatures(part: Path, *, destination: Path, limits: Limits) -> SignatureCounts:
    """Write ``signatures.parquet``: the keys of each document of a filtered file, in row order.

    Args:
        part: ``part.parquet`` of the filter.
        destination: an existing directory.

    Raises:
        SourceError: ``part`` cannot be read.
    """
    signatures = destination / "signatures.parquet"
    with limits.connect() as connection, reading(part):
        num_documents = write_parquet(
            connection,
            read_sql("signatures"),
            values={"part": parquet_path(part)},
            destination=signatures,
        )
        (num_chars,) = fetch_one(
            connection,
            _COUNT_CHARS,
            {"signatures": parquet_path(signatures)},
        )
    return SignatureCounts(num_documents=num_documents, num_chars=int(num_chars))


def cluster_duplicates(
    signature_files: Sequence[Path],
    validation: Path,
    *,
    config: DedupConfig,
    destination: Path,
    limits: Limits,
) -> DuplicateCounts:
    """Write ``removed.parquet`` and ``clusters.parquet`` of all files together.

    A document is removed in favour of a validation row whose text or words it has, whatever
    ``config.match`` says, or else of the first document in keep order that it matches: highest
    language score, most characters, latest date (unknown ones last), then file and row. Neither
    the order of the files nor the number of threads changes a byte.

    Args:
        signature_files: ``signatures.parquet`` of every file.
        validation: ``validation.parquet``.
        destination: an existing directory.

    Raises:
        SourceError: one of the files cannot be read.
        CorpusError: a larger share than ``config.max_removed_frac`` would be removed.
    """
    signatures = [parquet_path(path) for path in signature_files]
    with limits.connect() as connection:
        with reading(validation):
            values = {"validation": parquet_path(validation)}
            connection.execute(read_sql("validation_keys"), values)
        with reading(*signature_files):
            (num_in,) = fetch_one(connection, _COUNT_SIGNATURES, {"signatures": signatures})
            _find_removed(connection, signatures, match=config.match)
        counts = _write(connection, num_in=num_in, destination=destination)
    _log(counts)
    _refuse_to_remove_too_much(counts, config)
    return counts


def _find_removed(connection: DuckDBPyConnection, signatures: list[str], *, match: str) -> None:
    connection.execute(read_sql("validation_look_alikes"), {"signatures": signatures})
    if match == "none":
        return
    connection.execute(read_sql("copies"), {"signatures": signatures, "match": match})
    connection.execute(read_sql("removed_copies"))


def _write(connection: DuckDBPyConnection, *, num_in: int, destination: Path) -> DuplicateCounts:
    found = dict(connection.execute(_COUNT_KINDS).fetchall())
    num_removed = write_parquet(
        connection, _REMOVED_IN_ORDER, values={}, destination=destination / "removed.parquet"
    )
    num_clusters = write_parquet(
        connection, read_sql("clusters"), values={}, destination=destination / "clusters.parquet"
    )
    assert set(found) <= set(KINDS), f"a kind is not declared: {sorted(found)}"
    assert num_removed == sum(found.values()) <= num_in, f"{num_removed}, {found}, {num_in}"
    return DuplicateCounts(
        num_in=num_in,
        num_kept=num_in - num_removed,
        num_removed={kind: found.get(kind, 0) for kind in KINDS},
        num_clusters=num_clusters,
    )


def _refuse_to_remove_too_much(counts: DuplicateCounts, config: DedupConfig) -> None:
    removed = counts.num_in - counts.num_kept
    if removed <= config.max_removed_frac * counts.num_in:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.num_removed.items() if count)
    raise CorpusError(
        f"deduplication removes {removed / counts.num_in:.1%} of the documents",
        expected=f"at most {config.max_removed_frac:.1%} (dedup.max_removed_frac)",
        found=f"{removed:,} of {counts.num_in:,} documents ({kinds})",
        fix="look at removed.parquet and clusters.parquet; then change dedup.match, lower "
        "validation.num_documents if it is most of the source, or raise dedup.max_removed_frac",
    )


def _log(counts: DuplicateCounts) -> None:
    logging.getLogger(__name__).info(
        "%d of %d documents kept in %d groups of copies; removed: %s",
        counts.num_kept,
        counts.num_in,
        counts.num_clusters,
        counts.num_removed if counts.num_kept < counts.num_in else "none at all",
    )
