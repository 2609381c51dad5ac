"""Packing documents into rows: padding, documents cut, time and memory, best-fit beside concat.

    python -m benchmarks.bench_packing [TOKENS ...] [--context-tokens 1024] [--documents 2000000]

TOKENS are folders of `tokens.arrow` files, as the stage tokenise leaves them, or of shards. Each is
one corpus, whose documents are shuffled first. The last corpus is made of lengths alone, log-normal
with median 400 tokens and sigma 1, like those of web pages. `cut` is the share of the documents
that would fit a row and lie in two. Memory is how far the process's peak rises while it packs.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from model.data.rows import Segments
from model.data.shards import Int32Array, open_shard
from tasks.tokens.packing import pack_best_fit, pack_concat

SHARD_DOCUMENTS = 75_000  # about 50M tokens
MEDIAN_TOKENS = 400
SIGMA = 1.0
MAX_RSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


def lengths_in(folder: Path) -> Int32Array:
    """Return the tokens of every document of a folder, shuffled."""
    lengths = [np.diff(open_shard(path).offsets) for path in sorted(folder.rglob("*.arrow"))]
    return np.random.default_rng(1).permutation(np.concatenate(lengths))


def made_lengths(num_documents: int) -> Int32Array:
    """Return lengths like those of web pages."""
    chance = np.random.default_rng(1)
    return 1 + chance.lognormal(np.log(MEDIAN_TOKENS), SIGMA, num_documents).astype(np.int32)


def concat(shards: list[Int32Array], context_tokens: int) -> Segments:
    """Pack as one stream."""
    return pack_concat([int(item.sum(dtype=np.int64)) for item in shards], context_tokens)


def num_cut(shards: list[Int32Array], context_tokens: int, *, is_concat: bool) -> int:
    """Count documents that would fit a row and lie in two; best-fit never does that."""
    if not is_concat:
        return 0
    found = 0
    for lengths in shards:
        ends = np.cumsum(lengths, dtype=np.int64)
        first_input, last_input = ends - lengths, ends - 1
        is_cut = first_input // context_tokens != last_input // context_tokens
        found += int((is_cut & (lengths <= context_tokens)).sum())
    return found


def measure(name: str, lengths: Int32Array, context_tokens: int) -> None:
    """Pack one corpus both ways and print two lines of the table."""
    shards = np.array_split(lengths, max(1, len(lengths) // SHARD_DOCUMENTS))
    ways: dict[str, Callable[[list[Int32Array], int], Segments]] = {
        "best-fit": pack_best_fit,
        "concat": concat,
    }
    for way, pack in ways.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        rows = pack(shards, context_tokens)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        padding = rows.num_padding(context_tokens) / (rows.num_rows * context_tokens)
        cut = num_cut(shards, context_tokens, is_concat=way == "concat") / len(lengths)
        print(
            f"| {name} | {way} | {len(lengths):,} | {rows.num_rows:,} | {rows.num_targets:,} "
            f"| {padding:.3%} | {cut:.1%} | {seconds:.2f} "
            f"| {grown * MAX_RSS_BYTES / len(lengths):.0f} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", type=Path, nargs="*", help="folders of token files")
    parser.add_argument("--context-tokens", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=2_000_000, help="of the made corpus")
    options = parser.parse_args()
    print(describe())
    print(
        "\n| corpus | packing | documents | rows | targets | padding | cut | s | bytes/document |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for folder in options.tokens:
        measure(folder.name, lengths_in(folder), options.context_tokens)
    measure("made", made_lengths(options.documents), options.context_tokens)


if __name__ == "__main__":
    main()
