"""Raw files: identity, reading, disk space, and memoised facts, shared by all kinds of source.

Every kind of source ends in a `raw.parquet` with the columns of `FINEWEB_SCHEMA`. A row is
identified by (file, row): `SourceFile.path` and the 0-based row of `raw.parquet`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from model.core.config import RUNTIME_ONLY, Config
from model.core.errors import DiskSpaceError, SourceError
from model.core.files import file_sha256

logger = logging.getLogger(__name__)

RAW_NAME = "raw.parquet"
_MAX_NAME_CHARS = 120


class SourceFile(Config):
    """One file of a source: identity of its bytes, and the number of rows to take."""

    name: str = Field(description="path without '.parquet', safe as the name of a directory")
    path: str = Field(description="path inside the source, '/'-separated: the `file` column")
    digest: str = Field(description="identity of the bytes")
    take_rows: int | None = Field(
        default=None, description="only the first so many records; None = all"
    )
    num_bytes: Annotated[int | None, RUNTIME_ONLY] = Field(
        default=None, description="size, if known"
    )
    num_rows: Annotated[int | None, RUNTIME_ONLY] = Field(
        default=None, description="records in the whole file, if counted"
    )
    sha256: Annotated[str | None, RUNTIME_ONLY] = Field(
        default=None, description="of the whole file, where the source promises one"
    )


@dataclass(frozen=True)
class FetchedFile:
    """The raw.parquet of a fetched file."""

    num_rows: int  # rows of raw.parquet
    num_bytes: int  # size of raw.parquet
    sha256: str  # of raw.parquet
    partial: bool  # it holds fewer rows than its origin, because of source.max_documents
    num_skipped_records: int  # broken records left out


def artifact_name(path: str) -> str:
    """Return a directory name for a file, depending on nothing but its path.

    Example:
        >>> artifact_name("sample/10BT/000_00000.parquet")
        'sample-10BT-000_00000'
    """
    plain = path.removesuffix(".parquet").replace("/", "-")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", plain).lstrip(".-")
    if safe == plain and len(safe) <= _MAX_NAME_CHARS:
        return safe
    return f"{safe[:_MAX_NAME_CHARS]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def limit_rows(
    files: Iterable[SourceFile],
    max_documents: int | None,
    *,
    count: Callable[[SourceFile], int],
) -> list[SourceFile]:
    """Return the files that hold the first `max_documents` records, the last one cut to fit.

    A file that is wanted whole keeps `take_rows=None`: the same file with and without a limit.
    """
    if max_documents is None:
        return list(files)
    wanted: list[SourceFile] = []
    left = max_documents
    for file in files:
        if left == 0:
            break
        num_rows = count(file)
        take_rows = left if left < num_rows else None
        wanted.append(file.model_copy(update={"take_rows": take_rows, "num_rows": num_rows}))
        left -= min(left, num_rows)
    return wanted


def remembered(path: Path, compute: Callable[[], Any]) -> Any:
    """Return the JSON value stored at `path`, computing and storing it the first time."""
    if path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            logger.warning("%s is not valid JSON: computed again", path)
    value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
    return value


def describe(
    raw: Path, *, partial: bool, num_skipped_records: int = 0, sha256: str | None = None
) -> FetchedFile:
    """Return the facts of a raw.parquet; its sha256 is computed unless given."""
    with open_parquet(raw, where=raw, pre_buffer=False) as parquet:
        num_rows = parquet.metadata.num_rows
    return FetchedFile(
        num_rows=num_rows,
        num_bytes=raw.stat().st_size,
        sha256=sha256 or file_sha256(raw),
        partial=partial,
        num_skipped_records=num_skipped_records,
    )


def link_or_copy(path: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system forbids that."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        require_space(target.parent, path.stat().st_size)
        shutil.copyfile(path, temporary)
    temporary.replace(target)


def sweep(folder: Path, *, keep: str) -> None:
    """Delete all entries of a folder but one: leftovers of killed attempts."""
    for orphan in folder.iterdir():
        if orphan.name == keep:
            continue
        if orphan.is_dir() and not orphan.is_symlink():
            shutil.rmtree(orphan)
        else:
            orphan.unlink()


def require_space(folder: Path, num_bytes: int | None) -> None:
    """Check that the disk of `folder` can take `num_bytes` more.

    Raises:
        DiskSpaceError: it cannot.
    """
    free_bytes = shutil.disk_usage(folder).free
    if num_bytes is not None and free_bytes < num_bytes:
        raise DiskSpaceError(
            "the disk cannot hold a source file",
            expected=f"{num_bytes:,} bytes free",
            found=f"{free_bytes:,} bytes free",
            where=folder,
            fix="free some space, or set LLM_DATA_ROOT to a folder on a larger disk",
        )


def open_parquet(source: Path | Any, *, where: object, pre_buffer: bool) -> pq.ParquetFile:
    """Open a parquet file and read its footer.

    Args:
        source: a path, or an open binary file.
        where: named in errors.
        pre_buffer: fetch a row group in few large reads (remote), rather than little by little.

    Raises:
        SourceError: it is cut off, or no parquet file.
    """
    try:
        return pq.ParquetFile(source, pre_buffer=pre_buffer, buffer_size=0 if pre_buffer else 2**20)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise unreadable(error, where=where) from error


def read_batches(path: Path, *, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield record batches of some columns of a parquet file.

    Raises:
        SourceError: it is cut off, damaged, or no parquet file.
    """
    with open_parquet(path, where=path, pre_buffer=False) as parquet:
        try:
            yield from parquet.iter_batches(batch_rows, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise unreadable(error, where=path) from error


def unreadable(error: Exception, *, where: object) -> SourceError:
    """Return the error for a file that cannot be parsed."""
    return SourceError(
        "a source file cannot be read; is it cut off?",
        expected="a complete file of its format",
        found=str(error),
        where=where,
        fix="fetch or write the file again, or leave it out of the source",
    )
