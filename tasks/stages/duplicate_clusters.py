"""Stage duplicate_clusters: duplicates of all files, and what each is removed in favour of."""

from __future__ import annotations

from model.core.outputs import DropCounts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import DedupConfig
from tasks.corpus.dedup.clusters import (
    CLUSTERS_NAME,
    REMOVED_NAME,
    ClusterFacts,
    cluster_duplicates,
)
from tasks.corpus.dedup.near_duplicates import SignedFile
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.find_contamination import FindContaminationOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.signatures import SignaturesOutputs

STEP_VERSION = 3


class DuplicateClustersOutputs(Outputs[DropCounts, ClusterFacts], stage="duplicate_clusters"):
    """The duplicates of all files."""

    removed = OutputFile(REMOVED_NAME)  # documents that go, and the one that each goes in favour of
    clusters = OutputFile(CLUSTERS_NAME)  # groups of duplicates


def build(work: Work, config: DedupConfig, share: ResourceShare) -> None:
    """Write removed.parquet and clusters.parquet."""
    files = [
        SignedFile(part=filtered.part, signatures=signed.signatures, bands=signed.bands)
        for filtered, signed in zip(
            FilterDocumentsOutputs.inputs(work, "part"),
            SignaturesOutputs.inputs(work, "signatures"),
            strict=True,
        )
    ]
    counts, facts = cluster_duplicates(
        files,
        SelectValidationOutputs.input(work, "validation").documents,
        contaminated=[
            item.contaminated for item in FindContaminationOutputs.inputs(work, "contaminated")
        ],
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    DuplicateClustersOutputs.record(work, counts, facts)


duplicate_clusters = Stage(
    DuplicateClustersOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"key": KEY_ALGORITHM, "normalisation": str(NORMALISATION_VERSION)},
)
