"""Stage signatures: the keys by which documents of one file are compared with all others."""

from __future__ import annotations

from dataclasses import asdict

from model.core.store import Work
from tasks.config.corpus import SignatureConfig
from tasks.corpus.dedup.signatures import MINHASH_ALGORITHM, write_signatures
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.engine.stage import Share, Stage

STEP_VERSION = 2


def build(work: Work, config: SignatureConfig, share: Share) -> None:
    """Write signatures.parquet and bands.parquet."""
    counts = write_signatures(
        work.input("part") / "part.parquet",
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = asdict(counts)


signatures = Stage(
    "signatures",
    version=STEP_VERSION,
    build=build,
    algorithms={
        "key": KEY_ALGORITHM,
        "normalisation": str(NORMALISATION_VERSION),
        "minhash": MINHASH_ALGORITHM,
    },
)
