"""Files of a Hugging Face data set: listed at a pinned commit, fetched whole, or sampled by ranges.

Listings and row counts of a commit never change: they are kept under the cache folder and need no
network from then on.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from model.core.errors import DownloadError, SourceError
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources import hub_client
from tasks.corpus.sources.columns import copy_rows, is_fineweb, match_columns
from tasks.corpus.sources.fineweb_schema import RawWriter
from tasks.corpus.sources.hub_client import HubFile
from tasks.corpus.sources.hub_files import RangeReader, fetch_verified
from tasks.corpus.sources.licences import LICENCES
from tasks.corpus.sources.raw_file import (
    RAW_NAME,
    FetchedFile,
    SourceFile,
    artifact_name,
    describe,
    limit_rows,
    open_parquet,
    remembered,
)

CARD_NAME = "README.md"
DOWNLOAD_FOLDER = ".download"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_revision(source: SourceConfig) -> SourceConfig:
    """Return the source with its revision as a commit; only a branch or tag needs the network."""
    if source.kind != "hub" or _COMMIT.fullmatch(source.revision):
        return source
    commit = hub_client.find_commit(source.repo, source.revision)
    return source.model_copy(update={"revision": commit})


def list_hub_files(source: SourceConfig, *, cache: Path) -> list[SourceFile]:
    """Return the parquet files that `source.files` matches, sorted, at one commit.

    Raises:
        SourceError: the glob matches no parquet file.
        DownloadError: the hub refused, or cannot be reached and was never asked before.
    """
    pinned = resolve_revision(source)
    memory = cache / "hub" / pinned.repo.replace("/", "--") / pinned.revision
    folder = _fixed_folder(source.files)
    listing = remembered(_memo(memory, f"tree {folder}"), lambda: _listing(pinned, folder))
    hub_files = {entry["path"]: HubFile(**entry) for entry in listing}
    pattern = re.compile(_glob_regex(source.files))
    wanted = sorted(
        path for path in hub_files if pattern.fullmatch(path) and path.endswith(".parquet")
    )
    if not wanted:
        raise SourceError(
            "the data set has no file that matches",
            expected=f"parquet files like {source.files}",
            found=", ".join(sorted(hub_files)[:5]) or "an empty folder",
            where=hub_client.page_url(pinned.repo, pinned.revision, folder),
            fix="check source.files and source.revision",
        )

    def count(file: SourceFile) -> int:
        memo = _memo(memory, f"rows {file.path}")
        return remembered(memo, lambda: _count_rows(hub_files[file.path]))

    files = [_source_file(hub_files[path]) for path in wanted]
    return limit_rows(files, source.max_documents, count=count)


def fetch_hub_file(source: SourceConfig, file: SourceFile, *, destination: Path) -> FetchedFile:
    """Put one listed file, or its first rows, into `destination` as raw.parquet.

    A whole file is downloaded, verified against the hub's sha256, and kept as it is if it has
    FineWeb's columns. An interrupted download stays in `destination`/.download and is resumed by
    the next call. Wrong bytes are deleted and fetched once more. Of a file of which only the first
    rows are wanted, only the needed row groups are read, which no digest covers; a data set card
    names their origin.

    Raises:
        TransientDownloadError: worth a retry: time-outs, 429, 5xx, a body cut off.
        CorruptDownloadError: the hub sent other bytes than it promised, twice.
        DownloadError: the hub refused.
        SourceError: the file is no parquet file, although it is what the hub holds.
        SourceSchemaError: it has no text column, or a column of a type that does not fit.
        SourceRecordError: one of its rows is broken.
        DiskSpaceError: the disk cannot hold it.
    """
    hub_file = address(source, file)
    if file.take_rows is None:
        return _fetch_whole(source, hub_file, file, destination=destination)
    raw = destination / RAW_NAME
    with _open(hub_file) as parquet:
        num_skipped = _rewrite(parquet, raw, source=source, file=file, where=hub_file.url)
    fetched = describe(raw, partial=True, num_skipped_records=num_skipped)
    card = _card(hub_file, fetched, num_rows=file.num_rows)
    (destination / CARD_NAME).write_text(card, encoding="utf-8")
    return fetched


def address(source: SourceConfig, file: SourceFile) -> HubFile:
    """Return where a listed file lies, at the commit of its listing."""
    return HubFile(
        repo=source.repo,
        revision=file.digest.partition(":")[0],
        path=file.path,
        num_bytes=file.num_bytes or 0,
        sha256=file.sha256,
    )


def _fetch_whole(
    source: SourceConfig, hub_file: HubFile, file: SourceFile, *, destination: Path
) -> FetchedFile:
    folder = destination / DOWNLOAD_FOLDER
    raw = destination / RAW_NAME
    got, sha256 = fetch_verified(hub_file, folder)
    try:
        with _open_whole(got, hub_file) as parquet:
            _require_rows(parquet.metadata.num_rows, file, where=hub_file.url)
            match_columns(parquet.schema_arrow, columns=source.columns, where=hub_file.url)
            if not is_fineweb(parquet.schema_arrow, columns=source.columns):
                num_skipped = _rewrite(parquet, raw, source=source, file=file, where=hub_file.url)
                shutil.rmtree(folder)
                return describe(raw, partial=False, num_skipped_records=num_skipped)
    except SourceError:
        shutil.rmtree(folder)  # the same bytes are of no use the next time
        raise
    got.replace(raw)
    shutil.rmtree(folder)
    return describe(raw, partial=False, sha256=sha256)


def _rewrite(
    parquet: pq.ParquetFile, raw: Path, *, source: SourceConfig, file: SourceFile, where: str
) -> int:
    with RawWriter(raw, scope=file.path) as writer:
        return copy_rows(
            parquet,
            writer,
            columns=source.columns,
            take_rows=file.take_rows,
            on_broken=source.on_broken_record,
            where=where,
        )


def _open_whole(path: Path, hub_file: HubFile) -> pq.ParquetFile:
    try:
        return open_parquet(path, where=hub_file.url, pre_buffer=False)
    except SourceError as error:
        raise SourceError(
            "a file of the data set is broken on the hub itself",
            expected="a parquet file",
            found=f"{error.found}; its size and sha256 are those that the hub lists",
            where=hub_file.url,
            fix="leave it out with source.files, or choose another source.revision",
        ) from error


def _require_rows(num_rows: int, file: SourceFile, *, where: str) -> None:
    if file.num_rows is not None and num_rows != file.num_rows:
        raise DownloadError(
            "a file of the hub has another number of rows than when it was listed",
            expected=f"{file.num_rows:,} rows",
            found=f"{num_rows:,} rows",
            where=where,
            fix="list the source again",
        )


def _open(hub_file: HubFile) -> pq.ParquetFile:
    cached = hub_client.cached_path(hub_file)
    source = cached or RangeReader(hub_file)
    return open_parquet(source, where=hub_file.url, pre_buffer=True)


def _count_rows(hub_file: HubFile) -> int:
    with _open(hub_file) as parquet:
        return parquet.metadata.num_rows


def _listing(source: SourceConfig, folder: str) -> list[dict[str, Any]]:
    # First, as it fails at once without a network, where the listing would be retried for long.
    hub_client.find_commit(source.repo, source.revision)
    files = hub_client.list_folder(source.repo, source.revision, folder)
    return [file.model_dump() for file in files]


def _source_file(hub_file: HubFile) -> SourceFile:
    return SourceFile(
        name=artifact_name(hub_file.path),
        path=hub_file.path,
        digest=f"{hub_file.revision}:{hub_file.path}",
        num_bytes=hub_file.num_bytes,
        sha256=hub_file.sha256,
    )


def _card(hub_file: HubFile, fetched: FetchedFile, *, num_rows: int | None) -> str:
    licence = LICENCES.get(hub_file.repo)
    head = f"license: {licence.identifier}\n" if licence else ""
    terms = licence.identifier if licence else "see the data set it is from"
    return (
        f"---\n{head}configs:\n- config_name: default\n  data_files:\n"
        f"  - split: train\n    path: {RAW_NAME}\n---\n\n"
        f"# Rows of {hub_file.repo}\n\n"
        f"* origin: `{hub_file.repo}`, revision `{hub_file.revision}`, file `{hub_file.path}`\n"
        f"* rows: 0 to {fetched.num_rows - 1} of {num_rows}\n"
        f"* licence: {terms}\n"
        f"* `{RAW_NAME}`: {fetched.num_bytes} bytes, sha256 `{fetched.sha256}`\n"
    )


def _memo(folder: Path, subject: str) -> Path:
    return folder / f"{hashlib.sha256(subject.encode()).hexdigest()[:32]}.json"


def _fixed_folder(pattern: str) -> str:
    """Return the leading folders of a glob that hold no wildcard."""
    fixed: list[str] = []
    for part in PurePosixPath(pattern).parent.parts:
        if any(sign in part for sign in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed)


def _glob_regex(pattern: str) -> str:
    """Return the regex of a glob: *, ? and [...] stay within a folder, ** crosses folders."""
    signs = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    return "".join(signs.get(part) or _literal_or_class(part) for part in parts)


def _literal_or_class(part: str) -> str:
    if part.startswith("[") and part.endswith("]"):
        negated = part.startswith("[!")
        return f"[{'^' if negated else ''}{part[1 + negated : -1]}]"
    return re.escape(part)
