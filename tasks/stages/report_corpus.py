"""Stage report_corpus: a page that shows what became of the source's documents, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.core.artifact import Artifact, Manifest
from model.core.store import ArtifactStore, Work
from tasks.config.corpus import ReportConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.report.data import CorpusFiles, Disk, FunnelLine, Loss, Report, Tokens
from tasks.corpus.report.make import PAGE, KnownNumbers, write_report
from tasks.engine.removals import removal_table, removal_tables
from tasks.engine.stage import Inputs, Share, Stage
from tasks.reporting.funnel import funnel
from tasks.stages.download import raw_file, source_facts

# 3: records that were skipped as broken. A new layout of the page does not raise it: report.json,
# all that a program reads, holds what it held, and an older page shows the same numbers. Nor does
# the fixed order of examples within a reason, which used to depend on the number of threads.
STEP_VERSION = 3
FURTHER_COUNTS = ("edits", "personal_data", "contamination")  # facts that a stage may have


def report_inputs(artifacts: Iterable[Artifact]) -> Inputs:
    """Return the artifacts of all data stages as inputs of the report: by stage."""
    roles: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        roles.setdefault(artifact.stage, []).append(artifact)
    return roles


def build(work: Work, config: ReportConfig, share: Share) -> None:
    """Write report.html and report.json."""
    manifests = [item for role in work.derivation.inputs for item in work.input_manifests(role)]
    report = write_report(
        _files(work),
        known_numbers(manifests),
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_documents": report.funnel[0].documents}


def _files(work: Work) -> CorpusFiles:
    raw, filtered = (
        {
            manifest.facts["file"]: path
            for manifest, path in zip(work.input_manifests(role), work.inputs(role), strict=True)
        }
        for role in ("download", "filter_documents")
    )
    (clusters,) = work.derivation.inputs["duplicate_clusters"]
    return CorpusFiles(
        raw={file: raw_file(path) for file, path in raw.items()},
        parts={file: path / "part.parquet" for file, path in filtered.items()},
        rejected={file: path / "rejected.parquet" for file, path in filtered.items()},
        removed=removal_tables(work),
        copies=removal_table(clusters, work.store),
        clusters=work.store.path(clusters) / "clusters.parquet",
    )


def page_path(report: Artifact, store: ArtifactStore) -> Path:
    """Return the page of a finished report."""
    return store.path(report) / PAGE


def read_corpus_report(path: Path) -> Report:
    """Return what a ``report.json`` says."""
    return Report.model_validate_json(path.read_bytes())


def known_numbers(manifests: Sequence[Manifest]) -> KnownNumbers:
    """Return what the manifests of all data stages say.

    Raises:
        ArtifactError: a stage is missing, or the counts do not add up.
    """
    found = funnel(manifests)
    raw = next(item for item in manifests if item.artifact.stage == "download")
    losses = [
        Loss(stage=stage, reason=reason, documents=count)
        for stage, reasons in (
            ("filter_documents", found.rejected),
            ("duplicate_clusters", found.duplicates),
            ("select_quality", found.low_quality),
        )
        for reason, count in reasons.items()
        if count
    ]
    return KnownNumbers(
        source=source_facts(raw),
        funnel=[FunnelLine(**row) for row in found.as_rows()],
        losses=losses,
        skipped_records=found.num_skipped,
        tokens=_tokens(manifests),
        disk=_disk(manifests),
        counts={
            name: counts for name in FURTHER_COUNTS if (counts := _sum(manifests, name)) is not None
        },
    )


def _tokens(manifests: Sequence[Manifest]) -> Tokens:
    of_stage = {item.artifact.stage: item for item in manifests}
    shards = {
        item.artifact.name: item.counts
        for item in manifests
        if item.artifact.stage == "write_shards"
    }
    encoded = [item.counts for item in manifests if item.artifact.stage == "tokenise"]
    num_tokens = sum(counts["num_tokens"] - counts["num_docs"] for counts in encoded)
    num_bytes = sum(counts["num_bytes"] for counts in encoded)
    return Tokens(
        source_before=None,
        source_after=None,
        training=shards["training"]["num_tokens"],
        validation=shards["validation"]["num_tokens"],
        training_documents=shards["training"]["num_docs"],
        vocabulary=of_stage["train_tokenizer"].facts["vocab_size"],
        bytes_per_token=round(num_bytes / num_tokens, 4) if num_tokens else None,
    )


def _disk(manifests: Sequence[Manifest]) -> list[Disk]:
    sizes: dict[str, list[int]] = {}
    for item in manifests:
        content = sum(entry.num_bytes for entry in item.files if entry.role == "content")
        sizes.setdefault(item.artifact.stage, []).append(content)
    return [
        Disk(stage=stage, artifacts=len(items), bytes=sum(items)) for stage, items in sizes.items()
    ]


def _sum(manifests: Sequence[Manifest], fact: str) -> dict[str, int] | None:
    """Return counts by name that a stage keeps as a fact, summed over its artifacts."""
    counted = [item.facts[fact] for item in manifests if fact in item.facts]
    if not counted:
        return None
    total: Counter[str] = Counter()
    for counts in counted:
        total.update(counts)
    return dict(total)


report_corpus = Stage("report_corpus", version=STEP_VERSION, build=build, scope="corpus")
