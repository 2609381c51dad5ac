"""Stage signatures: the keys by which documents of one file are compared with all others."""

from __future__ import annotations

from dataclasses import asdict

from model.config import Config
from model.store import Work
from tasks.corpus.duck import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.corpus.exact_duplicates import write_signatures
from tasks.stage import Share, Stage

STEP_VERSION = 1


class Signatures(Config):
    """Nothing to choose yet: exact and normalised keys are always made."""


def build(work: Work, config: Signatures, share: Share) -> None:  # noqa: ARG001
    """Write signatures.parquet."""
    counts = write_signatures(
        work.input("part") / "part.parquet",
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = asdict(counts)


signatures = Stage(
    "signatures",
    version=STEP_VERSION,
    build=build,
    algorithms={"key": KEY_ALGORITHM, "normalisation": str(NORMALISATION_VERSION)},
)
