"""Stage duplicate_clusters: which documents go because another one says the same."""

from __future__ import annotations

from dataclasses import asdict

from model.core.store import Work
from tasks.config.corpus import DedupConfig
from tasks.corpus.dedup.clusters import cluster_duplicates
from tasks.corpus.dedup.near_duplicates import SignedFile
from tasks.corpus.dedup.signatures import BANDS_NAME, SIGNATURES_NAME
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.engine.stage import Share, Stage

STEP_VERSION = 3


def build(work: Work, config: DedupConfig, share: Share) -> None:
    """Write removed.parquet and clusters.parquet."""
    files = [
        SignedFile(
            part=part / "part.parquet",
            signatures=signed / SIGNATURES_NAME,
            bands=signed / BANDS_NAME,
        )
        for part, signed in zip(work.inputs("part"), work.inputs("signatures"), strict=True)
    ]
    counts = cluster_duplicates(
        files,
        work.input("validation") / "validation.parquet",
        contaminated=[path / "contaminated.parquet" for path in work.inputs("contaminated")],
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_in": counts.num_in, "num_kept": counts.num_kept, **counts.num_removed}
    work.facts = {"num_clusters": counts.num_clusters, "near": asdict(counts.near)}


duplicate_clusters = Stage(
    "duplicate_clusters",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={"key": KEY_ALGORITHM, "normalisation": str(NORMALISATION_VERSION)},
)
