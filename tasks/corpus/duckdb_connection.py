"""DuckDB connections for the corpus libraries: bounded, offline, deterministic, with clear errors.

Every value reaches a statement as a bound parameter; ``parquet_path`` makes a path safe to bind
where DuckDB would read it as a pattern. Statements of more than a few lines live in ``sql/*.sql``.

``read_parquet`` takes ``hive_partitioning = false`` everywhere: otherwise a folder called
``language=de`` above a file replaces the file's own column.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from duckdb import DuckDBPyConnection

from model.core.errors import ConfigError, DiskSpaceError, SourceError

SQL_DIRECTORY = Path(__file__).parent / "sql"
DEFINITIONS = ("normalise", "documents")  # macros every connection knows
KEY_ALGORITHM = "md5"  # of exact_key and normalised_key: belongs in the cache keys of their users
NORMALISATION_VERSION = 1  # of sql/normalise.sql: raise it when a key would change
TEXT_ROW_GROUP_ROWS = 8192  # about 25 MB of text, of which DuckDB buffers a few at once
KEY_ROW_GROUP_ROWS = 122_880  # DuckDB's own default, for tables without text
READ_ERRORS = (
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.ConversionException,
    duckdb.SerializationException,
    duckdb.OutOfRangeException,
)


@dataclass(frozen=True)
class Limits:
    """Resources that one call of a corpus library may use; they change no result."""

    memory_bytes: int  # limit of DuckDB's buffers; beyond it, work spills to disk
    threads: int  # worker threads
    spill_directory: Path  # where a temporary folder for spilled data is made

    @contextmanager
    def connect(self) -> Iterator[DuckDBPyConnection]:
        """Open an in-memory DuckDB with the project's macros; afterwards remove what it spilled.

        Raises:
            DiskSpaceError: a disk is full, while spilling or writing.
            ConfigError: the work does not fit in ``memory_bytes``, even with spilling.
        """
        self.spill_directory.mkdir(parents=True, exist_ok=True)
        spill = Path(tempfile.mkdtemp(prefix="duckdb-", dir=self.spill_directory.absolute()))
        settings = {
            "memory_limit": f"{self.memory_bytes}B",
            "threads": self.threads,
            "temp_directory": str(spill),
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "enable_external_file_cache": False,  # files are scanned once or twice
        }
        try:
            with (
                _actionable_resource_errors(spill, self.memory_bytes),
                duckdb.connect(config=settings) as connection,
            ):
                connection.execute("SET enable_progress_bar = false")  # it draws into any output
                for name in DEFINITIONS:
                    connection.execute(read_sql(name))
                yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)


def read_sql(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return (SQL_DIRECTORY / f"{name}.sql").read_text(encoding="utf-8")


def parquet_path(path: Path) -> str:
    """Return ``path`` as ``read_parquet`` must be given it to mean this file and no other.

    DuckDB reads ``* ? [`` as patterns even where a file of exactly that name exists, and a leading
    ``~`` as home.
    """
    return glob.escape(str(path.absolute()))


def write_parquet(
    connection: DuckDBPyConnection,
    select: str,
    *,
    values: dict[str, Any],
    destination: Path,
    row_group_rows: int = KEY_ROW_GROUP_ROWS,
) -> int:
    """Write the rows of a SELECT statement to a zstd parquet file and return their number.

    Runs on one thread: with more, COPY cuts row groups by the number of threads, and by timing when
    memory is short, so equal rows become different bytes. Files are mapped over processes instead.
    """
    (threads,) = fetch_one(connection, "SELECT current_setting('threads')")
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {int(row_group_rows)}"
    connection.execute("SET threads = 1")
    try:
        (num_rows,) = fetch_one(
            connection,
            f"COPY ({select}) TO $destination ({options})",
            {**values, "destination": str(destination.absolute())},
        )
    finally:
        connection.execute("SET threads = $threads", {"threads": threads})
    return num_rows


def fetch_one(
    connection: DuckDBPyConnection, query: str, values: dict[str, Any] | None = None
) -> tuple[Any, ...]:
    """Return the row of a query that always has exactly one."""
    rows = connection.execute(query, values or {}).fetchall()  # fetchone would leave it unfinished
    assert len(rows) == 1, f"{len(rows)} rows came back from {query}"
    return rows[0]


@contextmanager
def reading(*paths: Path) -> Iterator[None]:
    """Turn DuckDB's errors about one of ``paths`` into one that names the file.

    Raises:
        SourceError: a file is missing, cut off, damaged, or has text that is not UTF-8.
    """
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        named = [path for path in paths if str(path.absolute()) in message]
        is_unnamed_io = isinstance(error, duckdb.IOException) and not named
        about_files = isinstance(error, READ_ERRORS) or type(error) is duckdb.Error
        if is_unnamed_io or not about_files or _is_disk_full(error):
            raise
        raise SourceError(
            "a parquet file cannot be read",
            expected="a complete parquet file with UTF-8 text",
            found=message.splitlines()[0],
            where=", ".join(str(path) for path in named or paths),
            fix="delete the file and fetch or make it again",
        ) from error


@contextmanager
def _actionable_resource_errors(spill: Path, memory_bytes: int) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if _is_disk_full(error):
            raise DiskSpaceError(
                "the disk is full",
                expected="room for the output and for data that does not fit in memory",
                found=str(error).splitlines()[0],
                where=f"the output, or spilled data under {spill.parent}",
                fix="free disk space, or move the data root (LLM_DATA_ROOT) to a larger disk",
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise ConfigError(
                "the work does not fit in the memory given to DuckDB",
                expected=f"at most {memory_bytes:,} bytes",
                found=str(error).splitlines()[0],
                fix="raise run.memory_gb, or lower run.workers",
            ) from error
        raise


def _is_disk_full(error: duckdb.Error) -> bool:
    message = str(error)
    return "No space left on device" in message or (
        isinstance(error, duckdb.OutOfMemoryException) and "max_temp_directory_size" in message
    )
