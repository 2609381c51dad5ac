"""Filtered files of a few documents, their signatures, and what deduplication makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.outputs import DropCounts
from tasks.config.corpus import DedupConfig, SignatureConfig
from tasks.corpus.dedup.clusters import ClusterFacts, cluster_duplicates
from tasks.corpus.dedup.near_duplicates import SignedFile
from tasks.corpus.dedup.signatures import BANDS_NAME, SIGNATURES_NAME, write_signatures
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

PART_SCHEMA = FINEWEB_SCHEMA.append(pa.field("file", pa.string())).append(
    pa.field("row", pa.int64())
)

Rows = list[dict[str, Any]]


def document(
    text: str,
    *,
    file: str = "a",
    row: int = 0,
    language_score: float | None = 0.9,
    date: str | None = "2020",
    **more: Any,
) -> dict[str, Any]:
    fields = {"text": text, "file": file, "row": row, "id": f"{file}/{row}"}
    known = {**dict.fromkeys(PART_SCHEMA.names), "language_score": language_score, "date": date}
    return {**known, **fields, **more}


def write_part(path: Path, documents: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(documents), schema=PART_SCHEMA), path)
    return path


def signed_file(part: Path, limits: Limits, *, config: SignatureConfig | None = None) -> SignedFile:
    write_signatures(
        part, config=config or SignatureConfig(), destination=part.parent, limits=limits
    )
    return SignedFile(
        part=part,
        signatures=part.parent / SIGNATURES_NAME,
        bands=part.parent / BANDS_NAME,
    )


def sign(
    folder: Path, documents: Rows, limits: Limits, *, config: SignatureConfig | None = None
) -> list[SignedFile]:
    """Return one signed file per value of ``file``."""
    files = []
    for file in sorted({row["file"] for row in documents}):
        rows = [row for row in documents if row["file"] == file]
        part = write_part(folder / file / "part.parquet", rows)
        files.append(signed_file(part, limits, config=config))
    return files


def cluster(
    folder: Path,
    documents: Rows,
    limits: Limits,
    *,
    validation: Sequence[dict[str, Any]] = (),
    config: DedupConfig | None = None,
) -> tuple[tuple[DropCounts, ClusterFacts], Rows, Rows]:
    files = sign(folder, documents, limits)
    held_out = write_part(folder / "validation.parquet", validation)
    return decide(folder, files, held_out, limits, config=config)


def decide(
    destination: Path,
    files: Sequence[SignedFile],
    held_out: Path,
    limits: Limits,
    *,
    config: DedupConfig | None = None,
    contaminated: Sequence[Path] = (),
) -> tuple[tuple[DropCounts, ClusterFacts], Rows, Rows]:
    """Return the counts and facts, the removals and the clusters."""
    recorded = cluster_duplicates(
        files,
        held_out,
        contaminated=contaminated,
        config=config or DedupConfig(max_removed_frac=1.0),
        destination=destination,
        limits=limits,
    )
    removed = pq.read_table(destination / "removed.parquet").to_pylist()
    clusters = pq.read_table(destination / "clusters.parquet").to_pylist()
    return recorded, removed, clusters


def short(removed: Rows) -> list[tuple[Any, ...]]:
    return [(r["id"], r["kept_id"], r["kind"], r["jaccard"]) for r in removed]


def planted_files(folder: Path, planted: Path, limits: Limits) -> list[SignedFile]:
    """Return the planted files, signed, without their empty documents."""
    files = []
    for raw in sorted(planted.glob("00*.parquet")):
        rows = pq.read_table(raw).to_pylist()
        numbered = [{**row, "file": raw.name, "row": place} for place, row in enumerate(rows)]
        part = folder / raw.stem / "part.parquet"
        files.append(
            signed_file(write_part(part, [row for row in numbered if row["text"]]), limits)
        )
    return files
