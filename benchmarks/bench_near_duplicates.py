"""Near-duplicates against datatrove's MinHash, end to end, on long and on short documents.

    python -m benchmarks.bench_near_duplicates FOLDER [--repeat 3] [--peer PYTHON]

Long: the first two parquet files of the folder. Short: 20,000 pieces of 80 to 120 words cut from
them. Both sides use word 5-grams, 14 bands of 8 rows and two processes, and take turns. Ours reads
the text, makes exact, normalised and band keys, groups them, verifies every removal by the exact
Jaccard index and writes the table of removals; the peer makes signatures, buckets and clusters and
verifies nothing. Neither writes the remaining texts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.peers import PYTHON, run_peer
from tasks.config.corpus import DedupConfig, SignatureConfig
from tasks.corpus.dedup.clusters import cluster_duplicates
from tasks.corpus.dedup.near_duplicates import SignedFile
from tasks.corpus.dedup.signatures import BANDS_NAME, SIGNATURES_NAME, write_signatures
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

NUM_SHORT = 20_000
MEMORY_BYTES = 2_000_000_000
PROCESSES = 2


@dataclass(frozen=True)
class Corpus:
    """Two part files, as the filter leaves them."""

    name: str
    parts: list[Path]
    num_documents: int
    num_bytes: int


def long_documents(files: Sequence[Path], folder: Path) -> Corpus:
    """Return the files as they are."""
    return _corpus(
        "long", [pq.read_table(path, columns=FINEWEB_SCHEMA.names) for path in files], folder
    )


def short_documents(files: Sequence[Path], folder: Path) -> Corpus:
    """Return pieces of the texts of the files."""
    chance = random.Random(1)
    tables = []
    for path in files:
        rows = []
        for row in pq.read_table(path, columns=FINEWEB_SCHEMA.names).to_pylist():
            words = row["text"].split(" ")
            start = 0
            while start < len(words) and len(rows) < NUM_SHORT // len(files):
                length = chance.randrange(80, 120)
                rows.append({**row, "text": " ".join(words[start : start + length])})
                start += length
        tables.append(pa.Table.from_pylist(rows, schema=FINEWEB_SCHEMA))
    return _corpus("short", tables, folder)


def _corpus(name: str, tables: Sequence[pa.Table], folder: Path) -> Corpus:
    parts = []
    for place, table in enumerate(tables):
        numbered = table.append_column("file", pa.array([str(place)] * table.num_rows))
        numbered = numbered.append_column("row", pa.array(range(table.num_rows), pa.int64()))
        parts.append(folder / name / f"{place}.parquet")
        parts[-1].parent.mkdir(exist_ok=True)
        pq.write_table(numbered, parts[-1], compression="zstd", row_group_size=8192)
    texts = [text for table in tables for text in table["text"].to_pylist()]
    return Corpus(name, parts, len(texts), sum(len(text.encode()) for text in texts))


def sign(part: Path, directory: Path) -> SignedFile:
    """Make the signatures of one part, as the stage does."""
    directory.mkdir()
    limits = Limits(MEMORY_BYTES // PROCESSES, 1, directory)
    write_signatures(part, config=SignatureConfig(), destination=directory, limits=limits)
    return SignedFile(part, directory / SIGNATURES_NAME, directory / BANDS_NAME)


def our_seconds(corpus: Corpus, validation: Path, pool: ProcessPoolExecutor) -> tuple[float, int]:
    """Return how long everything takes, and how many documents go."""
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        places = [scratch / str(place) for place in range(len(corpus.parts))]
        started = time.perf_counter()
        signed = list(pool.map(sign, corpus.parts, places))
        counts, _ = cluster_duplicates(
            signed,
            validation,
            config=DedupConfig(),
            destination=scratch,
            limits=Limits(MEMORY_BYTES, PROCESSES, scratch),
        )
        return time.perf_counter() - started, counts.num_in - counts.num_kept


def measure(corpus: Corpus, validation: Path, *, repeat: int, peer: Path) -> str:
    """Return one line of the table."""
    ours, theirs = [], []
    removed = {"ours": 0, "peer": 0}
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        our_seconds(corpus, validation, pool)  # imports and tables
        for _ in range(repeat):
            seconds, removed["ours"] = our_seconds(corpus, validation, pool)
            ours.append(seconds)
            with tempfile.TemporaryDirectory() as scratch:
                found = run_peer("near_peer.py", corpus.parts[0].parent, scratch, python=peer)
            theirs.append(found["seconds"])
            removed["peer"] = found["removed"]
    ratios = [peer / own for own, peer in zip(ours, theirs, strict=True)]
    rates = [corpus.num_bytes / 1e6 / statistics.median(times) for times in (ours, theirs)]
    return (
        f"| {corpus.name}: {corpus.num_documents:,} documents, {corpus.num_bytes / 1e6:.1f} MB "
        f"| {rates[0]:.1f} MB/s, {removed['ours']} removed "
        f"| {rates[1]:.2f} MB/s, {removed['peer']} removed "
        f"| {statistics.median(ratios):.0f} ({min(ratios):.0f}-{max(ratios):.0f}) |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with two or more parquet files")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", type=Path, default=PYTHON, help="interpreter with datatrove")
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.parquet"))[:2]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        corpora = [make(files, folder) for make in (long_documents, short_documents)]
        validation = folder / "validation.parquet"
        pq.write_table(pq.read_table(corpora[0].parts[0]).slice(0, 0), validation)
        lines = [
            measure(corpus, validation, repeat=options.repeat, peer=options.peer)
            for corpus in corpora
        ]
    print(describe())
    print("\n| documents | ours | datatrove | times as fast (min-max) |\n|---|---:|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
