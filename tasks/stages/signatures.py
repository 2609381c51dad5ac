"""Stage signatures: keys of exact and near-duplicates of the documents of one file."""

from __future__ import annotations

from model.core.outputs import Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import SignatureConfig
from tasks.corpus.dedup.signatures import (
    BANDS_NAME,
    MINHASH_ALGORITHM,
    SIGNATURES_NAME,
    SignatureCounts,
    write_signatures,
)
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.filter_documents import FilterDocumentsOutputs

STEP_VERSION = 2


class SignaturesOutputs(Outputs[SignatureCounts, Facts], stage="signatures"):
    """The signatures of one file, row for row."""

    signatures = OutputFile(SIGNATURES_NAME)  # keys of equal text and equal words
    bands = OutputFile(BANDS_NAME)  # minHash keys, one column a band


def build(work: Work, config: SignatureConfig, share: ResourceShare) -> None:
    """Write signatures.parquet and bands.parquet."""
    counts = write_signatures(
        FilterDocumentsOutputs.input(work, "part").part,
        config=config,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    SignaturesOutputs.record(work, counts)


signatures = Stage(
    SignaturesOutputs,
    version=STEP_VERSION,
    build=build,
    algorithms={
        "key": KEY_ALGORITHM,
        "normalisation": str(NORMALISATION_VERSION),
        "minhash": MINHASH_ALGORITHM,
    },
)
