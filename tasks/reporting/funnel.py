"""Corpus funnel: where every document of the source went, from the counts of the manifests.

    source = rejected (by reason) + filtered
    filtered = duplicates (by kind) + low quality (by reason, if chosen by a model) + training

Records that the source skipped as broken are not documents: no row counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.table import Table

from model.core.artifact import Manifest
from model.core.errors import ArtifactError
from model.core.outputs import DropCounts, Outputs
from tasks.stages.download import DownloadOutputs
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.select_quality import SelectQualityOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.write_shards import WriteShardsOutputs

DropCountsT = TypeVar("DropCountsT", bound=DropCounts)


@dataclass(frozen=True)
class FunnelRow:
    """Documents that entered, were dropped by (negative), or passed a stage."""

    stage: str
    what: str
    documents: int
    percent: float


@dataclass(frozen=True)
class Funnel:
    """Number of documents of a source at each stage, and dropped by reason."""

    num_files: int
    num_skipped: int
    num_source: int
    rejected: Mapping[str, int]
    num_filtered: int
    duplicates: Mapping[str, int]
    low_quality: Mapping[str, int]
    num_training: int
    num_validation: int
    num_training_tokens: int

    def rows(self) -> list[FunnelRow]:
        """Return the rows from source to training, without reasons that dropped no document."""
        lines = [
            (DownloadOutputs.stage, "documents", self.num_source),
            *_lost(FilterDocumentsOutputs.stage, self.rejected),
            (FilterDocumentsOutputs.stage, "kept", self.num_filtered),
            *_lost(DuplicateClustersOutputs.stage, self.duplicates),
            *_lost(SelectQualityOutputs.stage, self.low_quality),
            (WriteShardsOutputs.stage, "training", self.num_training),
            (SelectValidationOutputs.stage, "validation", self.num_validation),
        ]
        shown = [line for line in lines if line[2] or line[1] in ("kept", "training")]
        scale = 100 / max(1, self.num_source)
        return [FunnelRow(*line, percent=round(scale * line[2], 2)) for line in shown]

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the rows as plain mappings, for tables."""
        return [asdict(row) for row in self.rows()]


def _lost(stage: str, reasons: Mapping[str, int]) -> list[tuple[str, str, int]]:
    return [(stage, reason, -count) for reason, count in reasons.items()]


def funnel(manifests: Iterable[Manifest]) -> Funnel:
    """Return the funnel of a prepared corpus.

    Args:
        manifests: of its data stages; other stages are ignored.

    Raises:
        ArtifactError: a stage is missing, or counts do not add up.
    """
    manifests = list(manifests)
    raw = [DownloadOutputs.counts_of(item) for item in _of_stage(DownloadOutputs, manifests)]
    filtered = _checked(FilterDocumentsOutputs, _of_stage(FilterDocumentsOutputs, manifests))
    (clusters, *_) = _checked(
        DuplicateClustersOutputs, _of_stage(DuplicateClustersOutputs, manifests)
    )
    (shards, *_) = _of_stage(WriteShardsOutputs, manifests, name="training")
    training = WriteShardsOutputs.counts_of(shards)
    (held_out, *_) = _of_stage(SelectValidationOutputs, manifests)
    chosen = _checked(SelectQualityOutputs, SelectQualityOutputs.among(manifests))
    num_source = sum(counts.num_documents for counts in raw)
    num_filtered = sum(counts.num_kept for counts in filtered)
    _require_equal(
        sum(counts.num_in for counts in filtered),
        num_source,
        what=f"{num_source} documents in, as many as were downloaded",
        where=FilterDocumentsOutputs.stage,
    )
    _require_equal(
        clusters.num_in,
        num_filtered,
        what=f"num_in = {num_filtered}, what the filter kept",
        where=DuplicateClustersOutputs.stage,
    )
    last, last_stage = clusters, DuplicateClustersOutputs.stage
    for counts in chosen:
        _require_equal(
            counts.num_in,
            clusters.num_kept,
            what=f"num_in = {clusters.num_kept}, what deduplication kept",
            where=SelectQualityOutputs.stage,
        )
        last, last_stage = counts, SelectQualityOutputs.stage
    _require_equal(
        training.num_docs,
        last.num_kept,
        what=f"num_docs = {last.num_kept}, what {last_stage} kept",
        where=shards.artifact.relative_path,
    )
    return Funnel(
        num_files=len(raw),
        num_skipped=sum(counts.num_skipped_records for counts in raw),
        num_source=num_source,
        rejected=sum((Counter(counts.dropped) for counts in filtered), Counter()),
        num_filtered=num_filtered,
        duplicates=clusters.dropped,
        low_quality=sum((Counter(counts.dropped) for counts in chosen), Counter()),
        num_training=training.num_docs,
        num_validation=SelectValidationOutputs.counts_of(held_out).num_kept,
        num_training_tokens=training.num_tokens,
    )


def funnel_table(found: Funnel) -> Table:
    """Return the funnel for a terminal."""
    skipped = f"{found.num_skipped:,} broken records skipped, " if found.num_skipped else ""
    tokens = f"{found.num_training_tokens:,} training tokens"
    table = Table(title=f"{found.num_files} files, {skipped}{tokens}")
    table.add_column("stage")
    table.add_column("what")
    table.add_column("documents", justify="right")
    table.add_column("% of source", justify="right")
    for row in found.rows():
        table.add_row(row.stage, row.what, f"{row.documents:,}", f"{row.percent:.1f}")
    return table


def _of_stage(
    stage: type[Outputs[Any, Any]], manifests: Sequence[Manifest], *, name: str | None = None
) -> list[Manifest]:
    found = [item for item in stage.among(manifests) if name in (None, item.artifact.name)]
    if not found:
        there = sorted({item.artifact.stage for item in manifests})
        raise ArtifactError(
            "the corpus lacks a stage that its funnel needs",
            expected=f"a manifest of {stage.stage}" + (f"/{name}" if name else ""),
            found=f"manifests of {', '.join(there) or 'nothing'}",
            fix="give the manifests of all stages of `prepare`",
        )
    return found


def _checked(
    stage: type[Outputs[DropCountsT, Any]], manifests: Iterable[Manifest]
) -> list[DropCountsT]:
    """Return the counts of a stage's artifacts, each of which adds up."""
    found = []
    for item in manifests:
        counts = stage.counts_of(item)
        passed = counts.num_kept + sum(counts.dropped.values())
        _require_equal(
            counts.num_in,
            passed,
            what=f"num_in = {passed}, what it kept and dropped",
            where=item.artifact.relative_path,
        )
        found.append(counts)
    return found


def _require_equal(found: int, expected: int, *, what: str, where: str) -> None:
    if found != expected:
        raise ArtifactError(
            "the counts of the corpus do not add up",
            expected=what,
            found=found,
            where=where,
            fix="run `python -m tasks.artifacts verify`, and report a bug if it finds nothing",
        )
