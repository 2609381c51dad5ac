"""Stage filter_documents: which documents of one file stay, and why the others go."""

from __future__ import annotations

from unicodedata import unidata_version

from model.core.config import Config
from model.core.store import Work
from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.filters.filter_file import filter_file
from tasks.corpus.filters.language import MODEL_ALGORITHM
from tasks.engine.stage import Share, Stage
from tasks.stages.download import raw_file

STEP_VERSION = 2


class FilterDocuments(Config):
    """Which documents stay, and what of their text."""

    filter: FilterConfig = FilterConfig()
    personal_data: PersonalDataConfig = PersonalDataConfig()


def build(work: Work, config: FilterDocuments, share: Share) -> None:
    """Write part.parquet and rejected.parquet."""
    (raw,) = work.input_manifests("raw")
    counts = filter_file(
        raw_file(work.input("raw")),
        file=raw.facts["file"],
        config=config.filter,
        personal_data=config.personal_data,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_in": counts.num_in, "num_kept": counts.num_kept, **counts.num_dropped}
    work.facts = {
        "file": raw.facts["file"],
        "num_language_unknown": counts.num_language_unknown,
        "num_languages_scored": counts.edits.num_languages,
        "text_bytes": counts.text_bytes,
        "edits": counts.edits.numbers(),
        "personal_data": dict(counts.edits.personal_data),
    }


filter_documents = Stage(
    "filter_documents",
    version=STEP_VERSION,
    build=build,
    algorithms={"language": MODEL_ALGORITHM, "unicode": unidata_version},
)
