"""Corpus funnel: where every document of the source went, from the counts of the manifests.

    source = rejected (by reason) + filtered
    filtered = duplicates (by kind) + low quality (by reason, if chosen by a model) + training

Records that the source skipped as broken are not documents: no row counts them.

In a manifest's counts, ``num_in`` is the input and ``num_kept`` the output. A count whose name
neither begins with ``num_`` nor ends with a unit is a reject reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from model.core.artifact import Manifest
from model.core.errors import ArtifactError

UNITS = ("_bytes", "_chars", "_tokens", "_seconds")


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
            ("download", "documents", self.num_source),
            *(("filter_documents", reason, -count) for reason, count in self.rejected.items()),
            ("filter_documents", "kept", self.num_filtered),
            *(("duplicate_clusters", kind, -count) for kind, count in self.duplicates.items()),
            *(("select_quality", reason, -count) for reason, count in self.low_quality.items()),
            ("write_shards", "training", self.num_training),
            ("select_validation", "validation", self.num_validation),
        ]
        shown = [line for line in lines if line[2] or line[1] in ("kept", "training")]
        scale = 100 / max(1, self.num_source)
        return [FunnelRow(*line, percent=round(scale * line[2], 2)) for line in shown]

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the rows as plain mappings, for tables."""
        return [asdict(row) for row in self.rows()]


def funnel(manifests: Iterable[Manifest]) -> Funnel:
    """Return the funnel of a prepared corpus.

    Args:
        manifests: of its data stages; other stages are ignored.

    Raises:
        ArtifactError: a stage is missing, or counts do not add up.
    """
    stages: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        stages.setdefault(manifest.artifact.stage, []).append(manifest)
    raw = _of_stage(stages, "download")
    filtered = _of_stage(stages, "filter_documents")
    clusters = _of_stage(stages, "duplicate_clusters")[0]
    training = _of_stage(stages, "write_shards", name="training")[0]
    validation = _of_stage(stages, "select_validation")[0]
    chosen = stages.get("select_quality", [])
    for item in (*filtered, clusters, *chosen):
        passed = item.counts["num_kept"] + sum(losses(item).values())
        _require_equal(item, "num_in", passed, of="what it kept and dropped")
    num_source = _total(raw, "num_documents")
    if _total(filtered, "num_in") != num_source:
        raise _not_adding_up(
            "filter_documents", expected=f"{num_source} documents in, as many as were downloaded",
            found=_total(filtered, "num_in"),
        )  # fmt: skip
    _require_equal(clusters, "num_in", _total(filtered, "num_kept"), of="what the filter kept")
    last = clusters
    for item in chosen:
        _require_equal(item, "num_in", clusters.counts["num_kept"], of="what deduplication kept")
        last = item
    _require_equal(
        training, "num_docs", last.counts["num_kept"], of=f"what {last.artifact.stage} kept"
    )
    return Funnel(
        num_files=len(raw),
        num_skipped=sum(item.counts.get("num_skipped_records", 0) for item in raw),
        num_source=num_source,
        rejected=sum((Counter(losses(item)) for item in filtered), Counter()),
        num_filtered=_total(filtered, "num_kept"),
        duplicates=losses(clusters),
        low_quality=sum((Counter(losses(item)) for item in chosen), Counter()),
        num_training=training.counts["num_docs"],
        num_validation=validation.counts["num_kept"],
        num_training_tokens=training.counts["num_tokens"],
    )


def losses(manifest: Manifest) -> dict[str, int]:
    """Return the documents a stage dropped, by reason."""
    return {
        name: count
        for name, count in manifest.counts.items()
        if not name.startswith("num_") and not name.endswith(UNITS)
    }


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
    stages: Mapping[str, list[Manifest]], stage: str, *, name: str | None = None
) -> list[Manifest]:
    found = [item for item in stages.get(stage, ()) if name in (None, item.artifact.name)]
    if not found:
        raise ArtifactError(
            "the corpus lacks a stage that its funnel needs",
            expected=f"a manifest of {stage}" + (f"/{name}" if name else ""),
            found=f"manifests of {', '.join(sorted(stages)) or 'nothing'}",
            fix="give the manifests of all stages of `prepare`",
        )
    return found


def _total(manifests: Sequence[Manifest], count: str) -> int:
    return sum(item.counts[count] for item in manifests)


def _require_equal(manifest: Manifest, count: str, expected: int, *, of: str) -> None:
    if manifest.counts[count] != expected:
        raise _not_adding_up(
            manifest.artifact.relative_path,
            expected=f"{count} = {expected}, {of}",
            found=manifest.counts[count],
        )


def _not_adding_up(where: str, *, expected: str, found: int) -> ArtifactError:
    return ArtifactError(
        "the counts of the corpus do not add up",
        expected=expected,
        found=found,
        where=where,
        fix="run `python -m tasks.artifacts verify`, and report a bug if it finds nothing",
    )
