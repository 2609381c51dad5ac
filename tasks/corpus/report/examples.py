"""Examples of a corpus report: dropped documents by reason, pairs of copies by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from tasks.corpus.duckdb_connection import parquet_path, read_sql, reading
from tasks.corpus.report.data import CorpusFiles, Example, Excerpt, Pair

EXCERPT_CHARS = 300
ELLIPSIS = "…"
SHARED_CHARS = 80  # of a pair's common beginning, shown before the first difference
LOOKUP_CHARS = 50_000  # of one text; a pair that differs only later is shown from its start

_RAW_TEXTS = """
SELECT file_row_number AS row, left(text, $most_chars)
FROM read_parquet($path, file_row_number = true, hive_partitioning = false)
WHERE file_row_number IN (SELECT unnest($rows::BIGINT[]))
"""
_PART_TEXTS = """
SELECT row, left(text, $most_chars)
FROM read_parquet($path, hive_partitioning = false)
WHERE row IN (SELECT unnest($rows::BIGINT[]))
"""


class Place(NamedTuple):
    """File and row of a document."""

    file: str
    row: int


def rejected_examples(
    connection: DuckDBPyConnection, files: CorpusFiles, *, num_examples: int
) -> dict[str, tuple[Example, ...]]:
    """Return random documents of each reason of the filter, with the start of their raw text."""
    paths = list(files.rejected.values())
    values = {"rejected": [parquet_path(path) for path in paths], "num_examples": num_examples}
    with reading(*paths):
        rows = connection.execute(read_sql("report_rejected"), values).fetchall()
    texts = _texts(connection, _RAW_TEXTS, files.raw, (Place(row[1], row[2]) for row in rows))
    found: dict[str, tuple[Example, ...]] = {}
    for reason, file, row, identifier, detail in rows:
        text = texts.get(Place(file, row))
        excerpt = Excerpt(file=file, row=row, id=identifier, text=cut(text))
        found[reason] = (*found.get(reason, ()), Example(excerpt=excerpt, detail=detail))
    return found


def example_pairs(
    connection: DuckDBPyConnection, files: CorpusFiles, *, num_examples: int
) -> tuple[Pair, ...]:
    """Return removed documents beside the kept ones, cut to where the two begin to differ.

    Texts are the filtered ones, which deduplication compared; a document that the filter dropped,
    such as a validation row, has its raw one. Documents of other corpora come without text.
    """
    values = {"removed": parquet_path(files.copies), "num_examples": num_examples}
    with reading(files.copies):
        rows = connection.execute(read_sql("report_pairs"), values).fetchall()
    places = {place for row in rows for place in (Place(*row[2:4]), Place(*row[5:7]))}
    texts = _texts(connection, _PART_TEXTS, files.parts, places)
    texts |= _texts(connection, _RAW_TEXTS, files.raw, places - texts.keys())
    pairs = []
    for kind, jaccard, file, row, identifier, kept_file, kept_row, kept_id in rows:
        places_of_pair = Place(file, row), Place(kept_file, kept_row)
        removed, kept = cut_pair(*map(texts.get, places_of_pair))
        pairs.append(
            Pair(
                kind=kind,
                jaccard=jaccard,
                removed=Excerpt(file=file, row=row, id=identifier, text=removed),
                kept=Excerpt(file=kept_file, row=kept_row, id=kept_id, text=kept),
            )
        )
    return tuple(pairs)


def cut(text: str | None, *, start: int = 0) -> str | None:
    """Return ``EXCERPT_CHARS`` characters of a text, with ellipses where text is left out.

    Example:
        >>> cut("short")
        'short'
    """
    if text is None:
        return None
    end = start + EXCERPT_CHARS
    return (ELLIPSIS if start else "") + text[start:end] + (ELLIPSIS if len(text) > end else "")


def cut_pair(one: str | None, other: str | None) -> tuple[str | None, str | None]:
    """Return excerpts of two texts that begin shortly before their first difference."""
    start = 0
    if one is not None and other is not None and one != other:
        start = max(0, _num_equal(one, other) - SHARED_CHARS)
        start = 0 if start < SHARED_CHARS or start >= LOOKUP_CHARS - SHARED_CHARS else start
    return cut(one, start=start), cut(other, start=start)


def _num_equal(one: str, other: str) -> int:
    """Return the length of the common prefix of two different texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _texts(
    connection: DuckDBPyConnection,
    query: str,
    files: Mapping[str, Path],
    places: Iterable[Place],
) -> dict[Place, str | None]:
    rows: dict[str, list[int]] = {}
    for place in sorted(set(places)):
        if place.file in files:
            rows.setdefault(place.file, []).append(place.row)
    found: dict[Place, str | None] = {}
    for file, wanted in rows.items():
        path = files[file]
        values = {"path": parquet_path(path), "rows": wanted, "most_chars": LOOKUP_CHARS}
        with reading(path):
            for row, text in connection.execute(query, values).fetchall():
                found[Place(file, row)] = text
    return found
