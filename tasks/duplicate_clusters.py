"""Stage duplicate_clusters: which documents go because another one says the same."""

from __future__ import annotations

from model.store import Work
from tasks.config import DedupConfig
from tasks.corpus.duck import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.corpus.exact_duplicates import cluster_duplicates
from tasks.stage import Share, Stage

STEP_VERSION = 1


def build(work: Work, config: DedupConfig, share: Share) -> None:
    """Write removed.parquet and clusters.parquet."""
    counts = cluster_duplicates(
        [path / "signatures.parquet" for path in work.inputs("signatures")],
        work.input("validation") / "validation.parquet",
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_in": counts.num_in, "num_kept": counts.num_kept, **counts.num_removed}
    work.facts = {"num_clusters": counts.num_clusters}


duplicate_clusters = Stage(
    "duplicate_clusters",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"key": KEY_ALGORITHM, "normalisation": str(NORMALISATION_VERSION)},
)
