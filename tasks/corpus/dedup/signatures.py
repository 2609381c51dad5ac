"""The keys by which the documents of one filtered file are compared with all others.

``signatures.parquet`` holds exact and normalised keys and what decides which copy stays;
``bands.parquet`` the MinHash band keys, one column each, so that one band is read at a time. Both
have one line per document, in row order. What the first two keys mean is written in
``sql/normalise.sql`` and nowhere else; the band keys are ``minhash``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.corpus import SignatureConfig
from tasks.corpus.dedup.minhash import BandKeys, band_keys
from tasks.corpus.duckdb_connection import (
    KEY_ROW_GROUP_ROWS,
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)
from tasks.corpus.shingles import batches
from tasks.corpus.sources.raw_file import read_batches

SIGNATURES_NAME = "signatures.parquet"
BANDS_NAME = "bands.parquet"
READ_ROWS = 1_024

_COUNT_CHARS = """
SELECT coalesce(sum(num_chars), 0)
FROM read_parquet($signatures, hive_partitioning = false)
"""


@dataclass(frozen=True)
class SignatureCounts:
    """What the signatures of one file hold."""

    num_documents: int
    num_chars: int


def band_column(band: int) -> str:
    """Return the name of the column that holds the keys of one band."""
    return f"band_{band:02d}"


def write_signatures(
    part: Path, *, config: SignatureConfig, destination: Path, limits: Limits
) -> SignatureCounts:
    """Write ``signatures.parquet`` and ``bands.parquet`` of a filtered file.

    Args:
        part: ``part.parquet`` of the filter.
        destination: an existing directory.

    Raises:
        SourceError: ``part`` cannot be read.
    """
    signatures = destination / SIGNATURES_NAME
    values = {"part": parquet_path(part)}
    with limits.connect() as connection, reading(part):
        num_documents = write_parquet(
            connection, read_sql("signatures"), values=values, destination=signatures
        )
        (num_chars,) = fetch_one(connection, _COUNT_CHARS, {"signatures": parquet_path(signatures)})
    _write_bands(part, config=config, path=destination / BANDS_NAME)
    return SignatureCounts(num_documents=num_documents, num_chars=int(num_chars))


def text_band_keys(texts: Iterable[str], config: SignatureConfig) -> Iterator[BandKeys]:
    """Yield the band keys of texts, some documents at a time."""
    for batch in batches(texts):
        yield band_keys(
            batch,
            bands=config.bands,
            band_rows=config.band_rows,
            shingle_words=config.shingle_words,
        )


def _write_bands(part: Path, *, config: SignatureConfig, path: Path) -> None:
    names = [band_column(band) for band in range(config.bands)]
    schema = pa.schema([("row", pa.int64()), *((name, pa.uint64()) for name in names)])
    rows: list[int] = []
    keys: list[BandKeys] = []
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for batch in read_batches(part, columns=["row", "text"], batch_rows=READ_ROWS):
            rows += batch["row"].to_pylist()
            keys += text_band_keys(batch["text"].to_pylist(), config)
            if len(rows) >= KEY_ROW_GROUP_ROWS:
                writer.write_table(_bands_table(rows, keys, schema))
                rows, keys = [], []
        writer.write_table(_bands_table(rows, keys, schema))


def _bands_table(rows: list[int], keys: list[BandKeys], schema: pa.Schema) -> pa.Table:
    width = len(schema) - 1
    columns = np.concatenate([*keys, np.empty((0, width), dtype=np.uint64)]).T
    return pa.table([pa.array(rows, pa.int64()), *map(pa.array, columns)], schema=schema)
