"""Count what a corpus report shows: distributions, origins, groups of copies, words.

Counting happens in SQL over whole files; only word counts and the vocabulary are taken from a
sample of the text, the documents of the lowest places in one fixed random order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection

from tasks.corpus.duckdb_connection import fetch_one, parquet_path, reading
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
SCORE_DIGITS = 1_000  # scores are told apart to three decimals
SCORE_EDGES = tuple(step / 50 for step in range(51))
BINS_PER_OCTAVE = 4
NUM_OCTAVES = 30  # beyond the length of any text
VOCABULARY_CHARS = 8_000_000  # a curve needs no more, and a second for it
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
_COUNT_ORIGINS = f"""
CREATE OR REPLACE TEMP TABLE origins AS
SELECT
    {{value}} AS name,
    count(*) FILTER (NOT is_kept) AS before,
    count(*) FILTER (is_kept) AS after
FROM {_DOCUMENTS}
GROUP BY name
"""  # noqa: S608
_TOP_ORIGINS = """
SELECT name, before, after
FROM origins
ORDER BY before DESC, after DESC, name
LIMIT $num_origins
"""
_DISTINCT_ORIGINS = """
SELECT count(*) FILTER (before > 0), count(*) FILTER (after > 0)
FROM origins
WHERE name <> ''
"""
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
    """What was counted word by word, in a sample of the text."""

    histogram: Histogram
    sample: Sample
    vocabulary: Vocabulary


class Measures:
    """The counts of one corpus, each by a scan of the columns it needs.

    Args:
        connection: with the macros of ``sql/report_documents.sql``.
        files: of the corpus.
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
        value = f"floor(language_score * {SCORE_DIGITS} + 1e-6) / {SCORE_DIGITS}"
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
        sides = {
            side: (np.asarray(columns[side])[known], int(np.asarray(columns[side])[~known].sum()))
            for side in ("before", "after")
        }
        bins = {side: bin_counts(values, counts, edges) for side, (counts, _) in sides.items()}
        summaries = {
            side: summary(values, counts, unknown=unknown, is_count=is_count)
            for side, (counts, unknown) in sides.items()
        }
        return Histogram(
            quantity=quantity,
            edges=edges,
            before=bins["before"],
            after=bins["after"],
            summary_before=summaries["before"],
            summary_after=summaries["after"],
        )

    def domains(self) -> Origins:
        """Count documents by the host of their url; no host counts as the empty name."""
        return self._origins("coalesce(domain_of(url), '')")

    def dumps(self) -> Origins:
        """Count documents by dump; none counts as the empty name."""
        return self._origins("coalesce(dump, '')")

    def _origins(self, value: str) -> Origins:
        self._execute(_COUNT_ORIGINS.format(value=value), self._values)
        rows = self._connection.execute(_TOP_ORIGINS, {"num_origins": NUM_ORIGINS}).fetchall()
        before, after = fetch_one(self._connection, _DISTINCT_ORIGINS)
        return Origins(
            shares=tuple(Share(name=name, before=b, after=a) for name, b, a in rows),
            distinct_before=before,
            distinct_after=after,
        )

    def source_tokens(self) -> tuple[int | None, int | None]:
        """Sum the source's own token counts, before and after."""
        ((before, after),) = self._execute(_TOKEN_COUNTS, self._values).fetchall()
        return before, after

    def words(self, *, sample_chars: int, total_chars: int) -> Words:
        """Count the words of a sample of documents, and its distinct ones.

        Args:
            sample_chars: how much text is read of each side, about.
            total_chars: of all text before.
        """
        is_everything = total_chars <= sample_chars
        last_place = 2**64 - 1 if is_everything else 2**64 * sample_chars // total_chars
        before = np.fromiter(
            (len(text.split()) for text in self._sampled(last_place, is_kept=False)), np.int64
        )
        counter = VocabularyCounter()
        after = np.fromiter(
            (counter.add(text) for text in self._sampled(last_place, is_kept=True)), np.int64
        )
        return Words(
            histogram=_word_histogram(before, after),
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
        rows = self._execute(_CLUSTER_SIZES, values).fetchall()
        return tuple(
            ClusterSize(kind=kind, least=most // 2 + 1, most=most, clusters=clusters)
            for kind, most, clusters in rows
        )

    def similarities(self) -> tuple[Similarity, ...]:
        """Count copies by kind and similarity, where it was measured."""
        values = {"copies": parquet_path(self._files.copies), "step": SIMILARITY_STEP}
        rows = self._execute(_SIMILARITIES, values).fetchall()
        return tuple(
            Similarity(
                kind=kind,
                least=round(place * SIMILARITY_STEP, 2),
                most=round((place + 1) * SIMILARITY_STEP, 2),
                documents=documents,
            )
            for kind, place, documents in rows
        )

    def _execute(self, query: str, values: Mapping[str, Any]) -> DuckDBPyConnection:
        with reading(*self._paths()):
            return self._connection.execute(query, dict(values))

    def _paths(self) -> list[Any]:
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
        """Take a document in while there is room, and return its number of words, as filtered."""
        if self._num_chars < VOCABULARY_CHARS:
            words = WORD.findall(text.lower())
            self._num_chars += len(text)
            self._num_words += len(words)
            self._distinct.update(words)
            self._curve.append((self._num_words, len(self._distinct)))
        return len(text.split())

    def vocabulary(self) -> Vocabulary:
        """Return points of the curve, close together at its beginning, and its end."""
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


def _word_histogram(before: np.ndarray, after: np.ndarray) -> Histogram:
    edges = length_edges()
    sides = {}
    for side, lengths in (("before", before), ("after", after)):
        values, counts = np.unique(lengths, return_counts=True)
        sides[side] = bin_counts(values, counts, edges)
        sides[f"summary_{side}"] = summary(values, counts, unknown=0, is_count=True)
    return Histogram(quantity="words", edges=edges, **sides)


def length_edges() -> tuple[float, ...]:
    """Return bins of a quarter of an octave: 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, ...."""
    steps = range(NUM_OCTAVES * BINS_PER_OCTAVE + 1)
    edges = {0, *(round(2 ** (step / BINS_PER_OCTAVE)) for step in steps)}
    return tuple(float(edge) for edge in sorted(edges))


def bin_counts(values: np.ndarray, counts: np.ndarray, edges: tuple[float, ...]) -> tuple[int, ...]:
    """Return how many values fall into each bin; what lies outside is in the outermost ones."""
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    binned = np.zeros(len(edges) - 1, dtype=np.int64)
    np.add.at(binned, places, counts)
    return tuple(binned.tolist())


def summary(values: np.ndarray, counts: np.ndarray, *, unknown: int, is_count: bool) -> Summary:
    """Return where values lie, each given with how often it occurs, in rising order.

    A percentile is the least value that so many percent of the documents do not exceed.
    """
    reached = np.cumsum(counts)
    documents = int(reached[-1]) if len(reached) else 0
    total = float(np.dot(values.astype(np.float64), counts)) if documents else 0.0
    ranks = [int(np.searchsorted(reached, documents * share / 100)) for share in PERCENTILES]
    return Summary(
        documents=documents,
        unknown=unknown,
        total=int(total) if is_count else None,
        mean=round(total / documents, 6) if documents else None,
        percentiles={
            str(share): float(values[rank])
            for share, rank in zip(PERCENTILES, ranks, strict=True)
            if documents
        },
    )
