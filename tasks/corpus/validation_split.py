"""Select the held-out documents that every model of a source is evaluated on.

The selection reads raw documents, before any filter, and orders texts by a seeded hash of their
words: it does not depend on filter and deduplication settings, and a new document displaces a
selected one only by hashing lower. Texts without a language label are checked by the language
identification model when they are due. ``dedup`` keeps near-duplicates of them out of training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection

from model.core.errors import CorpusError
from model.core.outputs import Counts
from tasks.config.corpus import ValidationConfig
from tasks.corpus.duckdb_connection import (
    TEXT_ROW_GROUP_ROWS,
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)
from tasks.corpus.filters.language import detect_language

VALIDATION_NAME = "validation.parquet"
# FineWeb's own (arXiv 2406.17557). Not the filter's setting: changing that leaves the rows alone.
MIN_LANGUAGE_SCORE = 0.65
WINDOW_PER_CHOICE = 2  # places read at once for each document still wanted
MIN_CANDIDATES_PER_CHOICE = 2  # at least half of the distinct texts are left for training

_COUNT_CANDIDATES = "SELECT count(*), count(DISTINCT key) FROM candidates"
_PLACES = """
SELECT document
FROM texts_in_order
WHERE place >= $first AND place < $last
ORDER BY place
"""
_COUNT_RAW = "SELECT count(*) FROM read_parquet($raws, hive_partitioning = false)"


class ValidationCounts(Counts):
    """Raw documents; with text in the language or unlabelled; of distinct text; chosen."""

    num_in: int
    num_eligible: int
    num_distinct: int
    num_kept: int


def select_validation(
    raw_files: Sequence[tuple[str, Path]],
    *,
    config: ValidationConfig,
    language: str,
    seed: int,
    destination: Path,
    limits: Limits,
) -> ValidationCounts:
    """Write ``validation.parquet``: the chosen documents, ordered by file and row.

    Args:
        raw_files: name inside the source and path of each raw file, in any order.
        language: the label a document must have, its own or the language model's.
        seed: of the order in which texts are taken.

    Raises:
        SourceError: a raw file cannot be read.
        CorpusError: there are fewer than two distinct eligible texts for each one to hold out.
    """
    ordered = sorted(raw_files, key=lambda named: named[0])
    with limits.connect() as connection:
        connection.execute(
            "CREATE TEMP TABLE candidates (document BIGINT, key UUID, is_labelled BOOLEAN)"
        )
        for place, (_, path) in enumerate(ordered):
            rule = {"language": language, "min_language_score": MIN_LANGUAGE_SCORE}
            values = {"raw": parquet_path(path), "file_place": place, **rule}
            with reading(path):
                connection.execute(read_sql("validation_candidates"), values)
        num_eligible, num_distinct = fetch_one(connection, _COUNT_CANDIDATES)
        _refuse_too_few(num_distinct, config=config, files=[file for file, _ in ordered])
        connection.execute(read_sql("validation_order"), {"seed": seed})
        _choose(
            connection,
            [path for _, path in ordered],
            num_documents=config.num_documents,
            language=language,
        )
        num_in, num_kept = _write(connection, ordered, destination=destination)
    assert num_kept == config.num_documents, f"{num_kept} chosen"
    counts = ValidationCounts(
        num_in=num_in, num_eligible=num_eligible, num_distinct=num_distinct, num_kept=num_kept
    )
    logging.getLogger(__name__).info("held out for validation: %s", counts)
    return counts


def _choose(
    connection: DuckDBPyConnection,
    paths: list[Path],
    *,
    num_documents: int,
    language: str,
) -> None:
    """Fill table chosen with the first documents in order that are in the language."""
    connection.execute("CREATE TEMP TABLE chosen (document BIGINT)")
    num_chosen, first = 0, 0
    while num_chosen < num_documents:
        last = first + WINDOW_PER_CHOICE * (num_documents - num_chosen)
        window = {"first": first, "last": last}
        places = connection.execute(_PLACES, window).fetchall()
        if not places:
            raise _too_few_in_the_language(num_chosen, wanted=num_documents, paths=paths)
        with reading(*paths):
            unlabelled = connection.execute(
                read_sql("validation_unlabelled"),
                {"raws": list(map(parquet_path, paths)), **window},
            ).fetchall()
        refused = {document for document, text in unlabelled if not _is_in(language, text)}
        taken = [document for (document,) in places if document not in refused]
        taken = taken[: num_documents - num_chosen]
        connection.execute("INSERT INTO chosen SELECT unnest($taken::BIGINT[])", {"taken": taken})
        num_chosen, first = num_chosen + len(taken), last


def _is_in(language: str, text: str) -> bool:
    found = detect_language(text)
    return found is not None and found.label == language and found.score >= MIN_LANGUAGE_SCORE


def _write(
    connection: DuckDBPyConnection, ordered: list[tuple[str, Path]], *, destination: Path
) -> tuple[int, int]:
    paths = [path for _, path in ordered]
    raws = [parquet_path(path) for path in paths]
    with reading(*paths):
        (num_in,) = fetch_one(connection, _COUNT_RAW, {"raws": raws})
        num_kept = write_parquet(
            connection,
            read_sql("validation_rows"),
            values={"raws": raws, "files": [file for file, _ in ordered]},
            destination=destination / VALIDATION_NAME,
            row_group_rows=TEXT_ROW_GROUP_ROWS,
        )
    return num_in, num_kept


def _refuse_too_few(num_distinct: int, *, config: ValidationConfig, files: list[str]) -> None:
    needed = MIN_CANDIDATES_PER_CHOICE * config.num_documents
    if num_distinct >= needed:
        return
    raise CorpusError(
        "the source is too small for so many validation documents",
        expected=f"at least {needed:,} different documents in the language, to hold out "
        f"{config.num_documents:,} (validation.num_documents)",
        found=f"{num_distinct:,}",
        where=", ".join(files),
        fix=f"lower validation.num_documents to {num_distinct // MIN_CANDIDATES_PER_CHOICE:,} "
        "or less, or give the source more documents",
    )


def _too_few_in_the_language(num_chosen: int, *, wanted: int, paths: list[Path]) -> CorpusError:
    return CorpusError(
        "the source holds too few documents in the language",
        expected=f"{wanted:,} documents to hold out (validation.num_documents)",
        found=f"{num_chosen:,} that are labelled so or identified as such",
        where=", ".join(map(str, paths)),
        fix="lower validation.num_documents, or give the source more documents in filter.language",
    )
