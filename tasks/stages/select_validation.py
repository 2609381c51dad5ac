"""Stage select_validation: the fixed documents on which every model of a source is measured.

Chosen from raw rows, before any filter, so that filters and deduplication leave them alone.
"""

from __future__ import annotations

from model.core.config import Config
from model.core.outputs import Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import ValidationConfig
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.corpus.filters.language import MODEL_ALGORITHM
from tasks.corpus.validation_split import VALIDATION_NAME, ValidationCounts
from tasks.corpus.validation_split import select_validation as select
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.download import DownloadOutputs

STEP_VERSION = 2  # 2: texts without a language label are judged by the language model


class SelectValidationOutputs(Outputs[ValidationCounts, Facts], stage="select_validation"):
    """The validation documents of a source."""

    documents = OutputFile(VALIDATION_NAME)  # the chosen documents, in the columns of kept ones


class SelectValidation(Config):
    """How many documents, and which."""

    validation: ValidationConfig
    language: str
    seed: int


def build(work: Work, config: SelectValidation, share: ResourceShare) -> None:
    """Write validation.parquet."""
    downloads = DownloadOutputs.inputs(work, "raw")
    counts = select(
        [(item.facts.file, item.raw) for item in downloads],
        config=config.validation,
        language=config.language,
        seed=config.seed,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    SelectValidationOutputs.record(work, counts)


select_validation = Stage(
    SelectValidationOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={
        "key": KEY_ALGORITHM,
        "normalisation": str(NORMALISATION_VERSION),
        "language_model": MODEL_ALGORITHM,
    },
)
