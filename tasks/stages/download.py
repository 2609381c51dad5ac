"""Stage download: one file of the source as raw.parquet in FineWeb's columns."""

from __future__ import annotations

from typing import Any

from model.core.artifact import Manifest
from model.core.config import Config
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import ArtifactStore, Work
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.raw_file import RAW_NAME, sweep
from tasks.corpus.sources.source_files import SourceFile, fetch_file, list_files, resolve_revision
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1
SOURCE_FIELDS = ("kind", "repo", "revision")  # of a whole source; the others are of one file


class DownloadCounts(Counts):
    """Documents of the file; skipped records were broken and never documents."""

    num_documents: int
    num_skipped_records: int = 0


class DownloadFacts(Facts):
    """Which file it is, and whether all of it was taken."""

    file: str
    sha256: str
    num_bytes: int
    partial: bool


class DownloadOutputs(Outputs[DownloadCounts, DownloadFacts], stage="download"):
    """One file of a source."""

    raw = OutputFile(RAW_NAME)  # its documents, in FineWeb's columns


class Download(Config):
    """One file of a source."""

    source: SourceConfig
    file: SourceFile
    data_seed: int

    def semantic(self) -> dict[str, Any]:
        """Return the identity of the bytes: the file's digest covers seed and revision."""
        return self.source.semantic() | {
            "file": self.file.path,
            "digest": self.file.digest,
            "take_rows": self.file.take_rows,
        }


def pinned_source(source: SourceConfig) -> SourceConfig:
    """Return a source with a branch of the hub as its commit; raises as ``find_commit``."""
    return resolve_revision(source)


def source_files(source: SourceConfig, *, data_seed: int, store: ArtifactStore) -> list[Download]:
    """Return one download per file of the source, by path.

    Raises:
        SourceError: the source is missing, empty or cannot be listed.
    """
    source = resolve_revision(source)
    cache = store.root / "cache"
    files = list_files(source, data_seed=data_seed, cache=cache)
    return [Download(source=source, file=file, data_seed=data_seed) for file in files]


def build(work: Work, config: Download, share: ResourceShare) -> None:  # noqa: ARG001
    """Fetch the file and check it, resuming the download of a killed attempt."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    fetched = fetch_file(
        config.source, config.file, data_seed=config.data_seed, destination=work.path
    )
    DownloadOutputs.record(
        work,
        DownloadCounts(
            num_documents=fetched.num_rows, num_skipped_records=fetched.num_skipped_records
        ),
        DownloadFacts(
            file=config.file.path,
            sha256=fetched.sha256,
            num_bytes=fetched.num_bytes,
            partial=fetched.partial,
        ),
    )


def source_facts(manifest: Manifest) -> dict[str, str]:
    """Return the facts of the whole source in a download's manifest, not of the one file."""
    config = manifest.derivation.config
    return {name: str(config[name]) for name in SOURCE_FIELDS if name in config}


download = Stage(DownloadOutputs, version=STEP_VERSION, build=build, resume=True, retries=5)
