"""Local files as a source: parquet and jsonl files are listed, hashed and read.

A file is identified by its path inside the source and its sha256, never by its folder.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.core.errors import SourceError
from model.core.files import file_sha256
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.columns import copy_rows, is_fineweb, match_columns
from tasks.corpus.sources.fineweb_schema import RawWriter
from tasks.corpus.sources.jsonl import JSONL_SUFFIXES, copy_records, count_records
from tasks.corpus.sources.raw_file import (
    RAW_NAME,
    FetchedFile,
    SourceFile,
    artifact_name,
    describe,
    limit_rows,
    link_or_copy,
    open_parquet,
    remembered,
)

SUFFIXES = (".parquet", *JSONL_SUFFIXES)
NOT_DOCUMENTS = ("truth.parquet",)  # labels beside a corpus, as the demo source writes them


def list_local_files(source: SourceConfig, *, cache: Path) -> list[SourceFile]:
    """Return the files below `source.path`, sorted; hashes are kept under `cache`.

    Raises:
        SourceError: nothing is there, or no file is of a known kind.
    """
    base, paths = _find(source.path)

    def listed(path: Path) -> SourceFile:
        relative = path.relative_to(base).as_posix()
        return SourceFile(
            name=artifact_name(relative),
            path=relative,
            digest=_remembered(path, "sha256", file_sha256, cache=cache),
            num_bytes=path.stat().st_size,
        )

    def count(file: SourceFile) -> int:
        return _remembered(base / file.path, "records", _count_rows, cache=cache)

    by_path = sorted(paths, key=lambda path: path.relative_to(base).as_posix())
    return limit_rows(map(listed, by_path), source.max_documents, count=count)


def fetch_local_file(source: SourceConfig, file: SourceFile, *, destination: Path) -> FetchedFile:
    """Put one listed file into `destination` as raw.parquet, linked where it can stay as it is.

    Raises:
        SourceError: the file is gone, cut off, or not the one that was listed.
        SourceSchemaError: it has no text column, or a column of a type that does not fit.
        SourceRecordError: one of its records is broken.
    """
    path = local_path(source, file)
    raw = destination / RAW_NAME
    if path.suffix == ".parquet" and file.take_rows is None and _can_stay(source, path):
        link_or_copy(path, raw)
        require_unchanged(raw, file, where=path)
        return describe(raw, partial=False, sha256=file.digest)
    num_skipped = _rewrite(source, file, path, raw)
    require_unchanged(path, file, where=path)
    return describe(raw, partial=file.take_rows is not None, num_skipped_records=num_skipped)


def local_path(source: SourceConfig, file: SourceFile) -> Path:
    """Return the path of a listed file.

    Raises:
        SourceError: it is gone.
    """
    base, _ = _base(source.path)
    path = (base / file.path).resolve()
    if not path.is_file():
        raise _missing(path)
    return path


def require_unchanged(path: Path, file: SourceFile, *, where: Path) -> None:
    """Compare the bytes at a path with those that were listed.

    Raises:
        SourceError: they differ.
    """
    found = file_sha256(path)
    if found != file.digest:
        raise SourceError(
            "a source file changed after it was listed",
            expected=f"sha256 {file.digest}",
            found=f"sha256 {found}",
            where=where,
            fix="start again when nothing writes to the file",
        )


def _can_stay(source: SourceConfig, path: Path) -> bool:
    with open_parquet(path, where=path, pre_buffer=False) as parquet:
        match_columns(parquet.schema_arrow, columns=source.columns, where=path)
        return is_fineweb(parquet.schema_arrow, columns=source.columns)


def _rewrite(source: SourceConfig, file: SourceFile, path: Path, raw: Path) -> int:
    with RawWriter(raw, scope=file.path) as writer:
        if path.suffix != ".parquet":
            return copy_records(
                path,
                writer,
                columns=source.columns,
                take_rows=file.take_rows,
                on_broken=source.on_broken_record,
            )
        with open_parquet(path, where=path, pre_buffer=False) as parquet:
            return copy_rows(
                parquet,
                writer,
                columns=source.columns,
                take_rows=file.take_rows,
                on_broken=source.on_broken_record,
                where=path,
            )


def _find(pattern: str) -> tuple[Path, list[Path]]:
    """Return the folder that paths are relative to, and the files below or at `pattern`."""
    base, expanded = _base(pattern)
    if expanded.is_file():
        found = [expanded]
    elif expanded.is_dir():
        found = [path for path in expanded.rglob("*") if _is_wanted(path.relative_to(base))]
    elif glob.has_magic(str(expanded)):
        matches = map(Path, glob.glob(str(expanded), recursive=True))  # noqa: PTH207 - "**" of an absolute glob
        found = [path for path in matches if _is_wanted(path.relative_to(base))]
    else:
        raise _missing(expanded)
    files = [path for path in found if path.is_file() and path.name.endswith(SUFFIXES)]
    if not files:
        names = sorted(str(path) for path in found or base.glob("*"))
        raise SourceError(
            "the local source has no files to read",
            expected=f"files that end in {', '.join(SUFFIXES)}",
            found=", ".join(names[:4]) or "nothing",
            where=expanded,
            fix="set source.path to a file, a folder or a glob",
        )
    return base, files


def _base(pattern: str) -> tuple[Path, Path]:
    """Return the folder that file paths are relative to, and the absolute path or glob."""
    expanded = Path(pattern).expanduser().absolute()
    if expanded.is_dir():
        return expanded, expanded
    base = expanded.parent
    if not expanded.exists():
        while glob.has_magic(str(base)):
            base = base.parent
    return base, expanded


def _is_wanted(relative: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in relative.parts)
    return not hidden and relative.name not in NOT_DOCUMENTS and relative.name.endswith(SUFFIXES)


def _missing(path: Path) -> SourceError:
    return SourceError(
        "a local source file or folder is not there",
        expected="an existing file or folder",
        found="nothing",
        where=path,
        fix="set source.path to a file, a folder or a glob of parquet or jsonl files",
    )


def _count_rows(path: Path) -> int:
    if path.suffix != ".parquet":
        return count_records(path)
    with open_parquet(path, where=path, pre_buffer=False) as parquet:
        return parquet.metadata.num_rows


def _remembered(path: Path, subject: str, compute: Callable[[Path], Any], *, cache: Path) -> Any:
    stat = path.stat()
    identity = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, subject)
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    return remembered(cache / "local" / f"{name}.json", lambda: compute(path))
