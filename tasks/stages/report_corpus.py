"""Stage report_corpus: page and data about what became of the documents of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from model.core.artifact import Artifact, Manifest
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.run import ReportConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.report.data import CorpusFiles, Disk, FunnelLine, Loss, Report, Tokens
from tasks.corpus.report.make import DATA, PAGE, KnownNumbers, write_report
from tasks.engine.stage import Inputs, ResourceShare, Stage
from tasks.reporting.funnel import funnel
from tasks.stages.download import DownloadOutputs, source_facts
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.find_contamination import FindContaminationOutputs
from tasks.stages.select_quality import SelectQualityOutputs, removed_documents
from tasks.stages.tokenise import TokeniseOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.stages.write_shards import WriteShardsOutputs

# 3: records that were skipped as broken. A new layout of the page does not raise it: report.json,
# all that a program reads, holds what it held, and an older page shows the same numbers. Nor does
# the fixed order of examples within a reason, which used to depend on the number of threads.
STEP_VERSION = 3


class ReportCorpusCounts(Counts):
    """Documents of the source."""

    num_documents: int


class ReportCorpusOutputs(Outputs[ReportCorpusCounts, Facts], stage="report_corpus"):
    """A report about a corpus."""

    page = OutputFile(PAGE)  # the report as a page
    data = OutputFile(DATA)  # the report as JSON


def report_inputs(artifacts: Iterable[Artifact]) -> Inputs:
    """Return the artifacts of all data stages as inputs of the report: by stage."""
    roles: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        roles.setdefault(artifact.stage, []).append(artifact)
    return roles


def build(work: Work, config: ReportConfig, share: ResourceShare) -> None:
    """Write report.html and report.json."""
    manifests = [item for role in work.derivation.inputs for item in work.input_manifests(role)]
    report = write_report(
        _files(work),
        known_numbers(manifests),
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    ReportCorpusOutputs.record(work, ReportCorpusCounts(num_documents=report.funnel[0].documents))


def _files(work: Work) -> CorpusFiles:
    raw = DownloadOutputs.inputs(work, DownloadOutputs.stage)
    filtered = FilterDocumentsOutputs.inputs(work, FilterDocumentsOutputs.stage)
    clusters = DuplicateClustersOutputs.input(work, DuplicateClustersOutputs.stage)
    return CorpusFiles(
        raw={item.facts.file: item.raw for item in raw},
        parts={item.facts.file: item.part for item in filtered},
        rejected={item.facts.file: item.rejected for item in filtered},
        removed=removed_documents(work),
        copies=clusters.removed,
        clusters=clusters.clusters,
    )


def read_corpus_report(path: Path) -> Report:
    """Return the content of a ``report.json``."""
    return Report.model_validate_json(path.read_bytes())


def known_numbers(manifests: Sequence[Manifest]) -> KnownNumbers:
    """Return the numbers of the manifests of all data stages.

    Raises:
        ArtifactError: a stage is missing, or the counts do not add up.
    """
    found = funnel(manifests)
    raw = DownloadOutputs.among(manifests)[0]
    losses = [
        Loss(stage=stage, reason=reason, documents=count)
        for stage, reasons in (
            (FilterDocumentsOutputs.stage, found.rejected),
            (DuplicateClustersOutputs.stage, found.duplicates),
            (SelectQualityOutputs.stage, found.low_quality),
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
        **_further_counts(manifests),
    )


def _tokens(manifests: Sequence[Manifest]) -> Tokens:
    tokenizer = TrainTokenizerOutputs.among(manifests)[-1]
    shards = {
        item.artifact.name: WriteShardsOutputs.counts_of(item)
        for item in WriteShardsOutputs.among(manifests)
    }
    encoded = [TokeniseOutputs.counts_of(item) for item in TokeniseOutputs.among(manifests)]
    num_tokens = sum(counts.num_tokens - counts.num_docs for counts in encoded)
    num_bytes = sum(counts.num_bytes for counts in encoded)
    return Tokens(
        source_before=None,
        source_after=None,
        training=shards["training"].num_tokens,
        validation=shards["validation"].num_tokens,
        training_documents=shards["training"].num_docs,
        vocabulary=TrainTokenizerOutputs.facts_of(tokenizer).vocab_size,
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


def _further_counts(manifests: Sequence[Manifest]) -> dict[str, dict[str, int]]:
    """Return the counts that stages keep as facts, summed over their artifacts."""
    filtered = [
        FilterDocumentsOutputs.facts_of(item) for item in FilterDocumentsOutputs.among(manifests)
    ]
    contaminated = [
        FindContaminationOutputs.facts_of(item).contamination
        for item in FindContaminationOutputs.among(manifests)
    ]
    found = {
        "edits": [facts.edits for facts in filtered if facts.edits is not None],
        "personal_data": [
            facts.personal_data for facts in filtered if facts.personal_data is not None
        ],
        "contamination": contaminated,
    }
    return {name: _sum(counted) for name, counted in found.items() if counted}


def _sum(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in counted:
        total.update(counts)
    return dict(total)


report_corpus = Stage(ReportCorpusOutputs, version=STEP_VERSION, build=build, scope="corpus")
