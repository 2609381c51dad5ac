"""Recall and precision of near-duplicate removal, against brute force.

    python -m benchmarks.bench_near_accuracy [--planted FOLDER] [--families 1500]

Two sets of documents: one made here (paragraphs of random words, edited to all degrees), and, where
its folder is given, a labelled one with ``truth.parquet``. The reference computes the exact Jaccard
index of every pair that shares a shingle, with Python sets and the regular expression.

A pair counts as found unless both stay. What goes is checked against what it goes in favour of.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from model.core.processes import num_cores
from tasks.config.corpus import DedupConfig, SignatureConfig
from tasks.corpus.dedup.clusters import cluster_duplicates
from tasks.corpus.dedup.near_duplicates import SignedFile
from tasks.corpus.dedup.signatures import BANDS_NAME, SIGNATURES_NAME, write_signatures
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA

PART_SCHEMA = FINEWEB_SCHEMA.append(pa.field("file", pa.string())).append(
    pa.field("row", pa.int64())
)
LEVELS = (0.95, 0.9, 0.85, 0.8)
Shingles = frozenset[tuple[str, ...]]
MAX_SHARING = 200  # a shingle of more documents is boilerplate and names no pair by itself


@dataclass(frozen=True)
class Document:
    """A text and the degree to which it was edited."""

    text: str
    family: int


def made_documents(num_families: int) -> list[Document]:
    """Return families of a first document and edited ones, from hardly to beyond recognition."""
    chance = random.Random(1)
    vocabulary = [f"word{number}" for number in range(20_000)]
    documents = []
    for family in range(num_families):
        first = chance.choices(vocabulary, k=chance.randrange(60, 600))
        documents.append(Document(" ".join(first), family))
        for _ in range(chance.randrange(1, 4)):
            words = list(first)
            for _ in range(int(chance.choice([0.002, 0.005, 0.01, 0.02, 0.04, 0.1]) * len(words))):
                words[chance.randrange(len(words))] = chance.choice(vocabulary)
            cut = chance.choice([0, 0, len(words) // 20, len(words) // 8])
            documents.append(Document(" ".join(words[cut:]), family))
    chance.shuffle(documents)
    return documents


def planted_documents(folder: Path) -> list[Document]:
    """Return the texts of a labelled set."""
    texts = []
    for path in sorted(folder.glob("00*.parquet")):
        texts += pq.read_table(path, columns=["text"])["text"].to_pylist()
    return [Document(text, index) for index, text in enumerate(texts) if text]


def shingles(text: str) -> Shingles:
    """Return the word 5-grams of a text, by the definition."""
    words = re.findall(r"\w+", text.lower())
    if 0 < len(words) < 5:
        return frozenset([tuple(words)])
    return frozenset(tuple(words[start : start + 5]) for start in range(len(words) - 4))


def brute_force(
    sets: list[frozenset[tuple[str, ...]]], *, least: float
) -> dict[tuple[int, int], float]:
    """Return the Jaccard index of all pairs that reach ``least``."""
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(sets):
        for shingle in found:
            holders[shingle].append(index)
    shared = Counter[tuple[int, int]]()
    for indices in holders.values():
        if len(indices) <= MAX_SHARING:
            for place, one in enumerate(indices):
                for other in indices[place + 1 :]:
                    shared[one, other] += 1
    pairs = {}
    for one, other in shared:
        left, right = sets[one], sets[other]
        index = len(left & right) / len(left | right)
        if index >= least:
            pairs[one, other] = index
    return pairs


def removed_by_us(documents: list[Document]) -> dict[int, dict[str, Any]]:
    """Return what is removed, by number of the document."""
    rows = [
        {"text": item.text, "id": str(index), "file": "all", "row": index, "language_score": 1.0}
        for index, item in enumerate(documents)
    ]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        part, validation = folder / "part.parquet", folder / "validation.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=PART_SCHEMA), part)
        pq.write_table(pa.Table.from_pylist([], schema=PART_SCHEMA), validation)
        limits = Limits(2_000_000_000, num_cores(), folder)
        write_signatures(part, config=SignatureConfig(), destination=folder, limits=limits)
        cluster_duplicates(
            [SignedFile(part, folder / SIGNATURES_NAME, folder / BANDS_NAME)],
            validation,
            config=DedupConfig(),
            destination=folder,
            limits=limits,
        )
        return {row["row"]: row for row in pq.read_table(folder / "removed.parquet").to_pylist()}


def report(name: str, documents: list[Document]) -> str:
    """Return one line of the table."""
    sets = [shingles(item.text) for item in documents]
    pairs = brute_force(sets, least=0.5)
    removed = removed_by_us(documents)
    cells = []
    for level in LEVELS:
        wanted = [pair for pair, index in pairs.items() if index >= level]
        found = sum(one in removed or other in removed for one, other in wanted)
        cells.append(f"{found / len(wanted):.4f} of {len(wanted):,}")
    indices = []
    for gone, row in removed.items():
        left, right = sets[gone], sets[row["kept_row"]]
        indices.append(len(left & right) / len(left | right) if left or right else 1.0)
    best = Counter[int]()
    for (one, other), index in pairs.items():
        best[one] = max(best[one], index)
        best[other] = max(best[other], index)
    unlike = [index for index in range(len(documents)) if best[index] <= 0.6]
    lost = sum(index in removed for index in unlike)
    kept_again = sum(row["kept_row"] in removed for row in removed.values())
    return (
        f"| {name}: {len(documents):,} | {' | '.join(cells)} | {len(removed):,} "
        f"| {min(indices):.3f} | {lost} of {len(unlike):,} | {kept_again} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planted", type=Path, help="folder of labelled parquet files")
    parser.add_argument("--families", type=int, default=1_500)
    options = parser.parse_args()
    lines = [report("made here", made_documents(options.families))]
    if options.planted:
        lines.append(report("labelled", planted_documents(options.planted)))
    print(describe())
    print(
        "\nFound, of all pairs with at least that Jaccard index; least Jaccard index of a removed "
        "document and the one kept for it; lost of those with no other above 0.6; removed in "
        "favour of one that is removed itself\n"
    )
    heads = ["documents", *(f"J >= {level}" for level in LEVELS), "removed", "least J", "lost"]
    print("| " + " | ".join([*heads, "chained"]) + " |")
    print("|---" + "|---:" * (len(heads)) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
