"""Stage filter_documents: kept and rejected documents of one file, with the reason of each."""

from __future__ import annotations

from unicodedata import unidata_version

from model.core.config import Config
from model.core.outputs import DropCounts, Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.filters.filter_file import PART_NAME, REJECTED_NAME, filter_file
from tasks.corpus.filters.language import MODEL_ALGORITHM
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.download import DownloadOutputs

STEP_VERSION = 2


class FilterDocumentsFacts(Facts):
    """What was found in the documents, and done to those that stay."""

    file: str
    num_language_unknown: int
    num_languages_scored: int = 0
    text_bytes: int
    edits: dict[str, int] | None = None
    personal_data: dict[str, int] | None = None


class FilterDocumentsOutputs(Outputs[DropCounts, FilterDocumentsFacts], stage="filter_documents"):
    """The documents of one file by what became of them."""

    part = OutputFile(PART_NAME)  # kept documents: FineWeb's columns, file and row
    rejected = OutputFile(REJECTED_NAME)  # dropped documents: file, row, id, reason, detail


class FilterDocuments(Config):
    """Which documents stay, and what of their text."""

    filter: FilterConfig = FilterConfig()
    personal_data: PersonalDataConfig = PersonalDataConfig()


def build(work: Work, config: FilterDocuments, share: ResourceShare) -> None:
    """Write part.parquet and rejected.parquet."""
    download = DownloadOutputs.input(work, "raw")
    file = download.facts.file
    counts = filter_file(
        download.raw,
        file=file,
        config=config.filter,
        personal_data=config.personal_data,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    FilterDocumentsOutputs.record(
        work,
        DropCounts(num_in=counts.num_in, num_kept=counts.num_kept, **counts.num_dropped),
        FilterDocumentsFacts(
            file=file,
            num_language_unknown=counts.num_language_unknown,
            num_languages_scored=counts.num_languages_scored,
            text_bytes=counts.text_bytes,
            edits=dict(+counts.edits),
            personal_data=dict(counts.personal_data),
        ),
    )


filter_documents = Stage(
    FilterDocumentsOutputs,
    version=STEP_VERSION,
    build=build,
    algorithms={"language": MODEL_ALGORITHM, "unicode": unidata_version},
)
