"""Data model of a corpus report: the content of ``report.json`` and of the page.

``measures`` and ``examples`` fill it from the tables of the stages; ``page`` shows it. *Before* is
every document of the source, *after* the documents that training gets: filtered, and without all
that later stages removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from model.core.config import Config

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CorpusFiles:
    """The tables of a prepared corpus."""

    raw: Mapping[str, Path]  # raw file of each source file
    parts: Mapping[str, Path]  # ``part.parquet`` of each source file
    rejected: Mapping[str, Path]  # ``rejected.parquet`` of each source file
    removed: tuple[Path, ...]  # all tables of (file, row) of documents removed after the filter
    copies: Path  # ``removed.parquet`` of deduplication, one of them
    clusters: Path  # ``clusters.parquet``


class FunnelLine(Config):
    """Documents that entered, were dropped by, or passed a stage."""

    stage: str
    what: str
    documents: int = Field(description="negative: dropped here")
    percent: float = Field(description="of the source's documents")


class Excerpt(Config):
    """A piece of one document."""

    file: str
    row: int
    id: str | None
    text: str | None = Field(description="null: the document has no text, or it is not available")


class Example(Config):
    """A document that was dropped."""

    excerpt: Excerpt
    detail: str | None = Field(description="the measured value or match that broke the rule")


class Loss(Config):
    """Documents dropped for one reason."""

    stage: str
    reason: str
    documents: int
    examples: tuple[Example, ...] = ()


class Pair(Config):
    """A removed document beside the one it was removed for."""

    kind: str
    jaccard: float | None
    removed: Excerpt
    kept: Excerpt


class Summary(Config):
    """Summary statistics of one quantity."""

    documents: int = Field(description="with a value")
    unknown: int = Field(description="without one")
    total: int | None = Field(description="sum, of quantities that are counted")
    mean: float | None
    percentiles: dict[str, float] = Field(description="5, 25, 50, 75, 95; empty without values")


class Histogram(Config):
    """Number of documents in each bin, before and after."""

    quantity: str
    edges: tuple[float, ...] = Field(description="bin i holds edges[i] <= value < edges[i + 1]")
    before: tuple[int, ...]
    after: tuple[int, ...]
    summary_before: Summary
    summary_after: Summary


class Share(Config):
    """Documents of one origin."""

    name: str
    before: int
    after: int


class Origins(Config):
    """Documents by origin, the most frequent ones before first."""

    shares: tuple[Share, ...]
    distinct_before: int
    distinct_after: int


class ClusterSize(Config):
    """Groups of copies of one kind whose sizes lie in a range."""

    kind: str
    least: int = Field(description="documents, the kept one included")
    most: int
    clusters: int


class Similarity(Config):
    """Removed documents of one kind whose Jaccard similarity to the kept one lies in a range."""

    kind: str
    least: float
    most: float
    documents: int


class Vocabulary(Config):
    """Distinct words against words, over a sample of training text in random order."""

    documents: int
    words: tuple[int, ...]
    distinct: tuple[int, ...]


class Sample(Config):
    """Size of the sample in which words are counted."""

    documents_before: int
    documents_after: int
    is_everything: bool


class Tokens(Config):
    """Tokens of the corpus, in the source's own count and in that of its tokenizer."""

    source_before: int | None = Field(description="sum of token_count; null if no row has one")
    source_after: int | None
    training: int
    validation: int
    training_documents: int
    vocabulary: int
    bytes_per_token: float | None = Field(description="UTF-8 bytes of text per token")


class Disk(Config):
    """Disk space of the artifacts of one stage."""

    stage: str
    artifacts: int
    bytes: int


class Report(Config):
    """Content of a corpus report."""

    format_version: int = FORMAT_VERSION
    source: dict[str, str]
    files: int
    skipped_records: int = Field(
        default=0, description="broken records of the source, left out before they were documents"
    )
    funnel: tuple[FunnelLine, ...]
    losses: tuple[Loss, ...]
    score: Histogram
    chars: Histogram
    words: Histogram
    sample: Sample
    domains: Origins
    dumps: Origins
    cluster_sizes: tuple[ClusterSize, ...]
    similarities: tuple[Similarity, ...]
    pairs: tuple[Pair, ...]
    vocabulary: Vocabulary
    tokens: Tokens
    disk: tuple[Disk, ...]
    edits: dict[str, int] | None = Field(description="null: the filter counts none")
    personal_data: dict[str, int] | None = Field(description="null: the filter counts none")
    contamination: dict[str, int] | None = Field(description="per evaluation set; null: none given")
