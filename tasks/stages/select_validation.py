"""Stage select_validation: the fixed documents every model of a source is measured on.

Chosen from raw rows, before any filter, so that filters and deduplication leave them alone.
"""

from __future__ import annotations

from dataclasses import asdict

from model.core.config import Config
from model.core.store import Work
from tasks.config.corpus import ValidationConfig
from tasks.corpus.duckdb_connection import KEY_ALGORITHM, NORMALISATION_VERSION, Limits
from tasks.corpus.filters.language import MODEL_ALGORITHM
from tasks.corpus.validation_split import select_validation as select
from tasks.engine.stage import Share, Stage
from tasks.stages.download import raw_file

STEP_VERSION = 2  # 2: texts without a language label are judged by the language model


class SelectValidation(Config):
    """How many documents, and which."""

    validation: ValidationConfig
    language: str
    seed: int


def build(work: Work, config: SelectValidation, share: Share) -> None:
    """Write validation.parquet."""
    raws = [
        (manifest.facts["file"], raw_file(path))
        for manifest, path in zip(work.input_manifests("raw"), work.inputs("raw"), strict=True)
    ]
    counts = select(
        raws,
        config=config.validation,
        language=config.language,
        seed=config.seed,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = asdict(counts)


select_validation = Stage(
    "select_validation",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    algorithms={
        "key": KEY_ALGORITHM,
        "normalisation": str(NORMALISATION_VERSION),
        "language_model": MODEL_ALGORITHM,
    },
)
