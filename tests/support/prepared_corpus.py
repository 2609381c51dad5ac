"""A small corpus on disk, made by the real filter and deduplication from documents of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.corpus import DedupConfig, FilterConfig, ValidationConfig
from tasks.corpus.dedup.clusters import cluster_duplicates
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.filters.filter_file import filter_file
from tasks.corpus.report.data import CorpusFiles
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.validation_split import select_validation
from tests.support.small_corpus import signed_file

Document = dict[str, Any]


def document(text: str | None, **fields: Any) -> Document:
    """Return a document in FineWeb's columns."""
    known = {
        "id": "x",
        "dump": "CC-1",
        "url": "https://example.org/",
        "date": "2020",
        "file_path": "p",
        "language": "en",
        "language_score": 0.9,
        "token_count": 10,
    }
    return {"text": text, **known, **fields}


@dataclass(frozen=True)
class SmallCorpus:
    """A corpus, its validation rows, and the documents it was made of."""

    files: CorpusFiles
    validation: Path
    documents: Mapping[str, Sequence[Document]]

    def kept(self) -> list[tuple[str, int, Document]]:
        """Return (file, row, document) of the documents that training gets."""
        removed = {
            (item["file"], item["row"]) for path in self.files.removed for item in _rows(path)
        }
        parts = [item for path in self.files.parts.values() for item in _rows(path)]
        return [
            (item["file"], item["row"], item)
            for item in parts
            if (item["file"], item["row"]) not in removed
        ]


def _rows(path: Path) -> list[Document]:
    return pq.read_table(path).to_pylist()


def write_raw(path: Path, documents: Sequence[Document]) -> Path:
    """Write documents as a raw file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(documents), schema=FINEWEB_SCHEMA)
    pq.write_table(table, path, row_group_size=50)
    return path


def make_corpus(
    folder: Path,
    documents: Mapping[str, Sequence[Document]],
    *,
    num_validation: int = 1,
    min_words: int = 3,
) -> SmallCorpus:
    """Filter and deduplicate documents, given by file, as the pipeline does."""
    limits = Limits(memory_bytes=500_000_000, threads=2, spill_directory=folder / "spill")
    raw, parts, rejected, signed = {}, {}, {}, []
    for place, (file, rows) in enumerate(documents.items()):
        home = folder / str(place)
        raw[file] = write_raw(home / "raw.parquet", rows)
        rules = FilterConfig(min_words=min_words, max_dropped_frac=1, score_language="never")
        filter_file(raw[file], file=file, config=rules, destination=home, limits=limits)
        parts[file], rejected[file] = home / "part.parquet", home / "rejected.parquet"
        signed.append(signed_file(parts[file], limits))
    select_validation(
        list(raw.items()),
        config=ValidationConfig(num_documents=num_validation),
        language="en",
        seed=1,
        destination=folder,
        limits=limits,
    )
    validation = folder / "validation.parquet"
    rules = DedupConfig(max_removed_frac=1)
    cluster_duplicates(signed, validation, config=rules, destination=folder, limits=limits)
    files = CorpusFiles(
        raw=raw,
        parts=parts,
        rejected=rejected,
        removed=(folder / "removed.parquet",),
        copies=folder / "removed.parquet",
        clusters=folder / "clusters.parquet",
    )
    return SmallCorpus(files=files, validation=validation, documents=documents)
