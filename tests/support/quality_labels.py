"""Labelled documents whose words tell, more or less reliably, which are good; files of stages."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.corpus import QualityModelConfig

BITS = 14
SHARED_WORDS = "the of and to in is that was for on with as it by at from this be are or"
GOOD_WORDS = "cell energy theory planet river history number language acid orbit empire"
BAD_WORDS = "buy cheap casino click free now bonus deal shipping winner login cart"


def make_text(chance: random.Random, *, good: bool, noise: float = 0.5) -> str:
    """Return a text in which one word in six tells its kind, more or less reliably."""
    kinds = (GOOD_WORDS.split(), BAD_WORDS.split())
    own, other = kinds if good else kinds[::-1]
    telling = [chance.choice(other if chance.random() < noise * 0.5 else own) for _ in range(10)]
    words = chance.choices(SHARED_WORDS.split(), k=50) + telling
    chance.shuffle(words)
    return " ".join(words)


def make_labelled(path: Path, *, count: int, seed: int = 1, noise: float = 0.5) -> Path:
    chance = random.Random(seed)
    labels = [chance.random() < 0.4 for _ in range(count)]
    texts = [make_text(chance, good=good, noise=noise) for good in labels]
    scores = pa.array([chance.uniform(3, 5) if good else chance.uniform(0, 2.9) for good in labels])
    pq.write_table(pa.table({"text": texts, "score": scores}), path, row_group_size=100)
    return path


def local(path: Path, **settings) -> QualityModelConfig:
    values = {"select": "threshold", "labels": "local", "path": str(path), "feature_bits": BITS}
    return QualityModelConfig(**values | settings)


def write_part(path: Path, texts: list[str], *, file: str, urls=None) -> None:
    count = len(texts)
    urls = urls or [f"https://site{number % 3}.example/{number}" for number in range(count)]
    columns = {
        "file": [file] * count,
        "row": list(range(0, 2 * count, 2)),
        "id": [f"id {number}" for number in range(count)],
        "url": pa.array(urls, pa.string()),
        "text": texts,
    }
    pq.write_table(pa.table(columns), path / "part.parquet", row_group_size=64)


def write_removed(path: Path, rows) -> Path:
    files, numbers = [file for file, _ in rows], [row for _, row in rows]
    table = pa.table({"file": pa.array(files, pa.string()), "row": pa.array(numbers, pa.int64())})
    pq.write_table(table, path)
    return path
