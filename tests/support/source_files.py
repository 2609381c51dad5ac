"""Small files of documents, and fetching all of a source, for the tests of sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.sources.source_files import FetchedFile, fetch_file, list_files

GROUP_ROWS = 100


def make_rows(num_rows: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "text": f"Page {row}.\n" + f"{row * 2_654_435_761 % 2**32:08x} " * 40,
            "id": f"<urn:uuid:{row}>",
            "dump": "CC-MAIN-2023-14",
            "url": f"https://example.org/{row}",
            "date": "2023-03-20T10:00:00Z",
            "file_path": "s3://crawl/pages",
            "language": "en",
            "language_score": 0.65 + row / 10_000,
            "token_count": row,
        }
        for row in range(first, first + num_rows)
    ]


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema or FINEWEB_SCHEMA)
    pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="zstd")
    return path


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def local(path: Path | str, **settings: Any) -> SourceConfig:
    return SourceConfig(kind="local", path=str(path), **settings)


def fetch_all(source: SourceConfig, folder: Path) -> list[tuple[FetchedFile, Path]]:
    """List and fetch every file of a source; return each with its path."""
    fetched = []
    for file in list_files(source, data_seed=1, cache=folder / "cache"):
        destination = folder / "fetched" / file.name
        destination.mkdir(parents=True, exist_ok=True)
        got = fetch_file(source, file, data_seed=1, destination=destination)
        fetched.append((got, destination / "raw.parquet"))
    return fetched


def fetch_rows(source: SourceConfig, folder: Path) -> list[dict[str, Any]]:
    return [row for _, raw in fetch_all(source, folder) for row in pq.read_table(raw).to_pylist()]
