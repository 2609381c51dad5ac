"""Measurements of a corpus report: distributions, origins, groups of copies, words.

SQL counts over whole files. Word counts and the vocabulary come from a sample of the text: the
documents with the lowest places in one fixed random order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection

from tasks.corpus.duckdb_connection import parquet_path, reading
from tasks.corpus.report.data import (
    ClusterSize,
    CorpusFiles,
    Histogram,
    Origins,
    Sample,
    Share,
    Similarity,
    Summary,
    Vocabulary,
)

NUM_ORIGINS = 20
PERCENTILES = (5, 25, 50, 75, 95)
SCORE_STEPS = 1_000  # scores are rounded down to three decimals
SCORE_EDGES = tuple(step / 50 for step in range(51))
BINS_PER_OCTAVE = 4
NUM_OCTAVES = 30  # beyond the length of any text
VOCABULARY_CHARS = 8_000_000  # enough for the curve, about a second
VOCABULARY_FIRST_WORDS = 100
VOCABULARY_GROWTH = 1.25  # from one point of the curve to the next
SIMILARITY_STEP = 0.05
BATCH_DOCUMENTS = 1_000
WORD = re.compile(r"\w+")

_DOCUMENTS = "report_documents($raws, $files, $parts, $removed)"
_VALUES = f"""
SELECT
    {{value}} AS value,
    count(*) FILTER (NOT is_kept) AS before,
    count(*) FILTER (is_kept) AS after
FROM {_DOCUMENTS}
GROUP BY value
ORDER BY value
"""  # noqa: S608
_ORIGINS = f"""
SELECT
    value, before, after,
    count(*) FILTER (value <> '' AND before > 0) OVER () AS distinct_before,
    count(*) FILTER (value <> '' AND after > 0) OVER () AS distinct_after
FROM ({_VALUES})
ORDER BY before DESC, after DESC, value
LIMIT $num_origins
"""  # noqa: S608
_TOKEN_COUNTS = f"""
SELECT
    sum(token_count) FILTER (NOT is_kept)::BIGINT,
    sum(token_count) FILTER (is_kept)::BIGINT
FROM {_DOCUMENTS}
"""  # noqa: S608
_SAMPLED = f"""
SELECT text
FROM {_DOCUMENTS}
WHERE is_kept = $is_kept AND text IS NOT NULL AND place <= $last_place
ORDER BY place
"""  # noqa: S608
_CLUSTER_SIZES = """
SELECT kind, (2 ** ceil(log2(size)))::BIGINT AS most, count(*)
FROM read_parquet($clusters, hive_partitioning = false)
GROUP BY ALL
ORDER BY ALL
"""
_SIMILARITIES = """
SELECT kind, least(floor(jaccard / $step + 1e-9), round(1 / $step) - 1)::BIGINT AS bin, count(*)
FROM read_parquet($copies, hive_partitioning = false)
WHERE jaccard IS NOT NULL
GROUP BY ALL
ORDER BY ALL
"""


@dataclass(frozen=True)
class Words:
    """Counts over the words of a sample of the text."""

    histogram: Histogram
    sample: Sample
    vocabulary: Vocabulary


class Measures:
    """Counts of one corpus, each by a scan of the columns it needs.

    The connection has the macros of ``sql/report_documents.sql``.
    """

    def __init__(self, connection: DuckDBPyConnection, files: CorpusFiles) -> None:
        self._connection = connection
        self._files = files
        self._values = {
            "raws": [parquet_path(path) for path in files.raw.values()],
            "files": list(files.raw),
            "parts": [parquet_path(path) for path in files.parts.values()],
            "removed": [parquet_path(path) for path in files.removed],
        }

    def score(self) -> Histogram:
        """Count language scores."""
        value = f"floor(language_score * {SCORE_STEPS} + 1e-6) / {SCORE_STEPS}"
        return self._histogram("language score", value, SCORE_EDGES, is_count=False)

    def chars(self) -> Histogram:
        """Count lengths in characters; a missing text has none."""
        return self._histogram("characters", "length(text)", length_edges(), is_count=True)

    def _histogram(
        self, quantity: str, value: str, edges: tuple[float, ...], *, is_count: bool
    ) -> Histogram:
        columns = self._execute(_VALUES.format(value=value), self._values).fetchnumpy()
        masked = np.ma.asarray(columns["value"])
        known = ~np.ma.getmaskarray(masked)
        values = np.ma.getdata(masked)[known].astype(np.float64)
        before, after = (
            Occurrences(values, counts[known], unknown=int(counts[~known].sum()))
            for counts in (np.asarray(columns[side]) for side in ("before", "after"))
        )
        return histogram(quantity, before, after, edges=edges, is_count=is_count)

    def domains(self) -> Origins:
        """Count documents by the host of their url; no host counts as the empty name."""
        return self._origins("coalesce(domain_of(url), '')")

    def dumps(self) -> Origins:
        """Count documents by dump; none counts as the empty name."""
        return self._origins("coalesce(dump, '')")

    def _origins(self, value: str) -> Origins:
        values = {**self._values, "num_origins": NUM_ORIGINS}
        rows = self._execute(_ORIGINS.format(value=value), values).fetchall()
        return Origins(
            shares=tuple(Share(name=name, before=b, after=a) for name, b, a, *_ in rows),
            distinct_before=rows[0][3] if rows else 0,
            distinct_after=rows[0][4] if rows else 0,
        )

    def source_tokens(self) -> tuple[int | None, int | None]:
        """Sum the source's own token counts, before and after."""
        ((before, after),) = self._execute(_TOKEN_COUNTS, self._values).fetchall()
        return before, after

    def words(self, *, sample_chars: int, total_chars: int) -> Words:
        """Count the words of a sample of documents, and its distinct ones.

        Args:
            sample_chars: approximate text to read of each side.
            total_chars: of all text before.
        """
        is_everything = total_chars <= sample_chars
        last_place = 2**64 - 1 if is_everything else 2**64 * sample_chars // total_chars
        before = [len(text.split()) for text in self._sampled(last_place, is_kept=False)]
        counter = VocabularyCounter()
        after = [counter.add(text) for text in self._sampled(last_place, is_kept=True)]
        sides = (Occurrences(*np.unique(side, return_counts=True)) for side in (before, after))
        return Words(
            histogram=histogram("words", *sides, edges=length_edges(), is_count=True),
            sample=Sample(
                documents_before=len(before),
                documents_after=len(after),
                is_everything=is_everything,
            ),
            vocabulary=counter.vocabulary(),
        )

    def _sampled(self, last_place: int, *, is_kept: bool) -> Iterator[str]:
        values = {**self._values, "last_place": last_place, "is_kept": is_kept}
        with reading(*self._paths()):
            found = self._connection.sql(_SAMPLED, params=values)
            for batch in found.to_arrow_reader(BATCH_DOCUMENTS):
                yield from batch.column("text").to_pylist()

    def cluster_sizes(self) -> tuple[ClusterSize, ...]:
        """Count groups of copies by kind and size."""
        values = {"clusters": parquet_path(self._files.clusters)}
        return tuple(
            ClusterSize(kind=kind, least=most // 2 + 1, most=most, clusters=clusters)
            for kind, most, clusters in self._execute(_CLUSTER_SIZES, values).fetchall()
        )

    def similarities(self) -> tuple[Similarity, ...]:
        """Count copies by kind and similarity, where it was measured."""
        values = {"copies": parquet_path(self._files.copies), "step": SIMILARITY_STEP}
        return tuple(
            Similarity(
                kind=kind,
                least=round(place * SIMILARITY_STEP, 2),
                most=round((place + 1) * SIMILARITY_STEP, 2),
                documents=documents,
            )
            for kind, place, documents in self._execute(_SIMILARITIES, values).fetchall()
        )

    def _execute(self, query: str, values: Mapping[str, Any]) -> DuckDBPyConnection:
        with reading(*self._paths()):
            return self._connection.execute(query, dict(values))

    def _paths(self) -> list[Path]:
        files = self._files
        removed = (*files.removed, files.copies, files.clusters)
        return [*files.raw.values(), *files.parts.values(), *removed]


class VocabularyCounter:
    """Words and distinct words of documents that are added one by one."""

    def __init__(self) -> None:
        self._distinct: set[str] = set()
        self._curve: list[tuple[int, int]] = []
        self._num_words = 0
        self._num_chars = 0

    def add(self, text: str) -> int:
        """Count a document up to ``VOCABULARY_CHARS``; return its words as in the filter."""
        if self._num_chars < VOCABULARY_CHARS:
            words = WORD.findall(text.lower())
            self._num_chars += len(text)
            self._num_words += len(words)
            self._distinct.update(words)
            self._curve.append((self._num_words, len(self._distinct)))
        return len(text.split())

    def vocabulary(self) -> Vocabulary:
        """Return points of the curve at geometric distances, and its end."""
        points: list[tuple[int, int]] = []
        wanted = float(VOCABULARY_FIRST_WORDS)
        for point in self._curve:
            if point[0] >= wanted:
                points.append(point)
                wanted = point[0] * VOCABULARY_GROWTH
        if self._num_words and points[-1:] != self._curve[-1:]:
            points.append(self._curve[-1])
        return Vocabulary(
            documents=len(self._curve),
            words=tuple(num_words for num_words, _ in points),
            distinct=tuple(distinct for _, distinct in points),
        )


@dataclass(frozen=True)
class Occurrences:
    """Distinct values in rising order, how often each occurs, and documents without a value."""

    values: np.ndarray
    counts: np.ndarray
    unknown: int = 0


def histogram(
    quantity: str,
    before: Occurrences,
    after: Occurrences,
    *,
    edges: tuple[float, ...],
    is_count: bool,
) -> Histogram:
    """Return the values of both sides in bins, with their summaries."""
    return Histogram(
        quantity=quantity,
        edges=edges,
        before=bin_counts(before, edges),
        after=bin_counts(after, edges),
        summary_before=summary(before, is_count=is_count),
        summary_after=summary(after, is_count=is_count),
    )


def length_edges() -> tuple[float, ...]:
    """Return bins of a quarter of an octave: 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, ...."""
    steps = range(NUM_OCTAVES * BINS_PER_OCTAVE + 1)
    edges = {0, *(round(2 ** (step / BINS_PER_OCTAVE)) for step in steps)}
    return tuple(float(edge) for edge in sorted(edges))


def bin_counts(found: Occurrences, edges: Sequence[float]) -> tuple[int, ...]:
    """Return the number of values in each bin; the outermost bins take what lies outside."""
    values = np.clip(found.values, edges[0], edges[-1])
    return tuple(np.histogram(values, edges, weights=found.counts)[0].tolist())


def summary(found: Occurrences, *, is_count: bool) -> Summary:
    """Return total, mean and percentiles (nearest rank: no interpolation) of values."""
    reached = np.cumsum(found.counts)
    documents = int(reached[-1]) if len(reached) else 0
    total = float(np.dot(found.values.astype(np.float64), found.counts)) if documents else 0.0
    ranks = np.searchsorted(reached, [documents * share / 100 for share in PERCENTILES])
    return Summary(
        documents=documents,
        unknown=found.unknown,
        total=int(total) if is_count else None,
        mean=round(total / documents, 6) if documents else None,
        percentiles={
            str(share): float(found.values[rank])
            for share, rank in zip(PERCENTILES, ranks, strict=True)
            if documents
        },
    )
