"""Keys by which the documents of one filtered file are compared with all others.

``signatures.parquet`` holds exact and normalised keys (defined in ``sql/normalise.sql``) and the
columns that order documents; ``bands.parquet`` the MinHash band keys, one column each, so that one
band is read at a time. Both have one line per document, in row order.

Documents that share a band key are likely near-duplicates. The minima come from rensa's kernel and
are folded into one 64-bit key per band at once. With 14 bands of 8 rows, two documents of Jaccard
index 0.85 share a key with probability 0.988, of 0.8 with 0.92, of 0.5 with 0.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rensa import RMinHash  # type: ignore[attr-defined]  # re-exported from its binary module

from model.core.outputs import Counts
from tasks.config.corpus import SignatureConfig
from tasks.corpus.duckdb_connection import (
    KEY_ROW_GROUP_ROWS,
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)
from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.corpus.shingles import Ragged, batches, shingle_hashes, word_hashes
from tasks.corpus.sources.raw_file import read_batches

SIGNATURES_NAME = "signatures.parquet"
BANDS_NAME = "bands.parquet"
READ_ROWS = 1_024
SEED = 1
MINHASH_ALGORITHM = f"rensa-{RMinHash.ALGORITHM_VERSION}-seed-{SEED}-{WORDS_ALGORITHM}"
KEY_STEP = np.uint64(0xD6E8FEB86659FD93)

BandKeys = npt.NDArray[np.uint64]

_COUNT_CHARS = """
SELECT coalesce(sum(num_chars), 0)
FROM read_parquet($signatures, hive_partitioning = false)
"""


class SignatureCounts(Counts):
    """Documents and characters that were signed."""

    num_documents: int
    num_chars: int


def band_column(band: int) -> str:
    """Return the name of the column that holds the keys of one band."""
    return f"band_{band:02d}"


def write_signatures(
    part: Path, *, config: SignatureConfig, destination: Path, limits: Limits
) -> SignatureCounts:
    """Write ``signatures.parquet`` and ``bands.parquet`` of the filter's ``part.parquet``."""
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
        yield band_keys(batch, config)


def band_keys(texts: Sequence[str], config: SignatureConfig) -> BandKeys:
    """Return the band keys of every text; texts without a word have equal keys.

    Returns:
        Shape: [len(texts), bands].
    """
    bands, band_rows = config.bands, config.band_rows
    shingles = shingle_hashes(word_hashes(texts), size=config.shingle_words)
    minima = _minima(shingles, num_hashes=bands * band_rows).reshape(len(texts), bands, band_rows)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), (len(texts), bands))
    for row in range(band_rows):
        keys = keys * KEY_STEP + minima[:, :, row]
    return keys ^ (keys >> np.uint64(29))


def _minima(shingles: Ragged, *, num_hashes: int) -> npt.NDArray[np.uint32]:
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.offsets.astype(np.uint64), num_hashes, SEED
    )
    return np.array(digests.to_rows(), dtype=np.uint32).reshape(len(shingles.lengths), num_hashes)


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
