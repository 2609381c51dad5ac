"""Where raw documents come from: list a source's files, fetch one of them.

Three kinds (hub, local, demo) end alike: a folder per file with a `raw.parquet` in FineWeb's
columns. Called by the download stage and the flow that plans it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from model.core.errors import DiskSpaceError, SourceError, is_disk_full
from tasks.config.corpus import SourceConfig
from tasks.corpus.demo.corpus import DEMO_CORPUS_VERSION, generate_shard
from tasks.corpus.sources.hub import address, fetch_hub_file, list_hub_files, resolve_revision
from tasks.corpus.sources.hub_files import fetch_verified
from tasks.corpus.sources.local import (
    fetch_local_file,
    list_local_files,
    local_path,
    require_unchanged,
)
from tasks.corpus.sources.raw_file import RAW_NAME, FetchedFile, SourceFile, artifact_name, describe

__all__ = [
    "FetchedFile",
    "SourceFile",
    "fetch_file",
    "list_files",
    "original_file",
    "resolve_revision",
]

TRUTH_NAME = "truth.parquet"


def list_files(source: SourceConfig, *, data_seed: int, cache: Path) -> list[SourceFile]:
    """Return the files of a source, sorted by path; the same source gives the same list.

    Args:
        data_seed: seed of the demo corpus; other kinds ignore it.
        cache: folder for hub listings, hashes and row counts.

    Raises:
        SourceError: the source has no file, or cannot be read.
        DownloadError: the hub refused or cannot be reached.
    """
    if source.kind == "hub":
        files = list_hub_files(source, cache=cache)
    elif source.kind == "local":
        files = list_local_files(source, cache=cache)
    else:
        files = _list_demo_shards(source, data_seed=data_seed)
    names = Counter(file.name for file in files)
    doubled = [file.path for file in files if names[file.name] > 1]
    if doubled:
        raise SourceError(
            "files of the source would get the same name",
            expected="paths that still differ with '-' in place of '/'",
            found=", ".join(doubled[:4]),
            where=Path(source.path).absolute() if source.kind == "local" else source.repo,
            fix="rename one of them",
        )
    return files


def fetch_file(
    source: SourceConfig, file: SourceFile, *, data_seed: int, destination: Path
) -> FetchedFile:
    """Write one file's raw.parquet into `destination`, a folder that is there, whole or not at all.

    Beside it the demo corpus puts truth.parquet, and a hub file that is cut short a data set card.

    Raises:
        SourceError: and its kinds, for a file that is missing, broken, or not what was listed.
        DiskSpaceError: the disk is full.
    """
    try:
        if source.kind == "hub":
            return fetch_hub_file(source, file, destination=destination)
        if source.kind == "local":
            return fetch_local_file(source, file, destination=destination)
        return _fetch_demo_shard(file, data_seed=data_seed, destination=destination)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskSpaceError(
            "the disk filled up while a source file was written",
            expected=f"about {file.num_bytes or 0:,} bytes free",
            found=str(error),
            where=destination,
            fix="free some space, or set LLM_DATA_ROOT to a folder on a larger disk",
        ) from error


def original_file(source: SourceConfig, file: SourceFile, *, downloads: Path) -> Path:
    """Return a listed file as it is: where it lies on this machine, or fetched from the hub.

    Args:
        source: of kind local or hub.
        downloads: folder of this file alone; an interrupted download is resumed by the next call.

    Raises:
        SourceError: the file is gone, or not the one that was listed.
        DownloadError: the hub refused, or sent other bytes than it promised.
        DiskSpaceError: the disk cannot hold it.
    """
    if source.kind == "hub":
        return fetch_verified(address(source, file), downloads)[0]
    path = local_path(source, file)
    require_unchanged(path, file, where=path)
    return path


def _list_demo_shards(source: SourceConfig, *, data_seed: int) -> list[SourceFile]:
    num_shards = min(source.demo_shards, source.demo_documents)
    share, rest = divmod(source.demo_documents, num_shards)
    files: list[SourceFile] = []
    for shard in range(num_shards):
        path = f"demo-{shard:05d}.parquet"
        num_documents = share + (shard < rest)  # an earlier shard is never the shorter one
        digest = f"demo:{data_seed}:{shard}:{num_documents}:{DEMO_CORPUS_VERSION}"
        files.append(SourceFile(name=artifact_name(path), path=path, digest=digest))
    return files


def _fetch_demo_shard(file: SourceFile, *, data_seed: int, destination: Path) -> FetchedFile:
    _, shard, num_documents, _ = map(int, file.digest.split(":")[1:])
    finished = {name: destination / name for name in (RAW_NAME, TRUTH_NAME)}
    temporary = {name: destination / f".{name}.tmp" for name in finished}
    generate_shard(
        temporary[RAW_NAME],
        truth_path=temporary[TRUTH_NAME],
        shard=shard,
        num_documents=num_documents,
        seed=data_seed,
    )
    for name, path in temporary.items():
        path.replace(finished[name])
    return describe(finished[RAW_NAME], partial=False)
