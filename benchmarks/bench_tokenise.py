"""Encoding with the trained vocabulary: ours against tokenizers' own batch encoder.

    python -m benchmarks.bench_tokenise FOLDER [--vocab-size 32768] [--repeat 5]

A vocabulary is trained on the first file of the folder; then both encode the texts of the second,
in batches as the stage does, on all cores, in turns. Ids must be equal on every document.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.machine import describe
from model.core.processes import num_cores
from model.text.tokenizer import Tokenizer
from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import train_bpe
from tasks.tokens.encode import BATCH_DOCS
from tasks.tokens.fast_encoder import FastEncoder


def rate(encode: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    """Return the seconds that encoding all texts takes."""
    started = time.perf_counter()
    for first in range(0, len(texts), BATCH_DOCS):
        encode(texts[first : first + BATCH_DOCS])
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with two or more parquet files")
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(num_cores())
    train_file, test_file = sorted(options.folder.rglob("*.parquet"))[:2]
    with tempfile.TemporaryDirectory() as directory:
        sample = iter(pq.read_table(train_file, columns=["text"])["text"].to_pylist())
        config = TokenizerConfig(vocab_size=options.vocab_size)
        train_bpe(sample, config=config, destination=Path(directory))
        tokenizer = Tokenizer.load(Path(directory))
    texts = pq.read_table(test_file, columns=["text"])["text"].to_pylist()
    encoder = FastEncoder(tokenizer, threads=num_cores())
    ids = encoder.encode_batch(texts)
    expected = tokenizer.encode_batch(texts)
    num_equal = sum(map(np.array_equal, ids, expected))
    num_tokens, num_bytes = sum(map(len, ids)), sum(len(text.encode()) for text in texts)
    ours, theirs = [], []
    for _ in range(options.repeat):
        ours.append(rate(encoder.encode_batch, texts))
        theirs.append(rate(tokenizer.encode_batch, texts))
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    print(describe())
    print(f"\nids equal on {num_equal:,} of {len(texts):,} documents\n")
    print("| encoder | MB/s | tokens/s |\n|---|---:|---:|")
    for name, times in (("ours (tiktoken)", ours), ("tokenizers", theirs)):
        seconds = statistics.median(times)
        print(f"| {name} | {num_bytes / 1e6 / seconds:.1f} | {num_tokens / seconds:,.0f} |")
    spread = f"{min(ratios):.1f}-{max(ratios):.1f}"
    print(f"\n{statistics.median(ratios):.1f} times as fast ({spread})")


if __name__ == "__main__":
    main()
