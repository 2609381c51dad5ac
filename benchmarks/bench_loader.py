"""Reading training batches: ours against windows of a flat file, and their share of a step.

    python -m benchmarks.bench_loader SHARDS [--context-tokens 1024] [--rows 64] [--repeat 7]

SHARDS is a directory that write_shards made. Both sides hand out equal numbers of rows as int64
tensors, on one thread, from files that lie in the page cache, and take turns. The plain loader maps
one flat file of the same tokens and takes windows at random places: some tokens are read twice and
some never, documents are cut anywhere, and it can neither go on where it stopped nor mask anything.
Ours reads every row once an epoch, masks, and keeps its position. Then a model is trained with
our loader, as the trainer reads it: `waits` is the time the training waits for a batch, `reads` the
time that reading one takes when nothing else runs, both as a share of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe
from model.config.network import ModelConfig, ModelSize
from model.data.shards import ShardSet, open_shard
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.runtime.distributed import DistributedContext
from model.train.loader import Batch, BatchReader, Part

NUM_BATCHES = 40  # of one turn
WARM_BATCHES = 20
LEARNING_RATE = 1e-3


def windows(path: Path, *, rows: int, context_tokens: int) -> Iterator[torch.Tensor]:
    """Yield batches of windows at random places of a flat file of tokens."""
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    chance = np.random.default_rng(1)
    while True:
        starts = chance.integers(0, len(tokens) - context_tokens, size=rows).tolist()
        taken = [tokens[start : start + context_tokens + 1].astype(np.int64) for start in starts]
        yield torch.from_numpy(np.stack(taken))


def rows_in_order(reader: BatchReader) -> Iterator[torch.Tensor]:
    """Yield our batches, each read when it is asked for."""
    state = reader.start()
    while True:
        batch = reader.read(state)
        state = batch.state
        yield batch.ids


def write_flat(shards: Path, destination: Path) -> Path:
    """Write the tokens of all shards as one flat file."""
    with destination.open("wb") as file:
        for path in sorted(shards.glob("shard-*.arrow")):
            open_shard(path).tokens.tofile(file)
    return destination


def seconds_per_batch(batches: Iterator[torch.Tensor]) -> float:
    """Return the time one batch takes, over a turn."""
    started = time.perf_counter()
    for _ in range(NUM_BATCHES):
        next(batches)
    return (time.perf_counter() - started) / NUM_BATCHES


def compare(sides: dict[str, Iterator[torch.Tensor]], *, repeat: int) -> dict[str, list[float]]:
    """Return the seconds per batch of each side and turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for batches in sides.values():
        for _ in range(WARM_BATCHES):
            next(batches)
    for _ in range(repeat):
        for name, batches in sides.items():
            times[name].append(seconds_per_batch(batches))
    return times


def train_step(size: ModelSize, shards: ShardSet) -> Callable[[Batch], None]:
    """Return what takes one plain training step of a model on a batch."""
    model_config = ModelConfig(size=size, context_tokens=shards.context_tokens)
    model = GPT(model_config.architecture(shards.vocab_size))
    model.init_weights(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(batch: Batch) -> None:
        for ids, mask in zip(batch.ids.split(4), batch.mask.split(4), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = next_token_loss(model, ids, mask)
            (loss / batch.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def waiting(reader: BatchReader, step: Callable[[Batch], None], *, num_steps: int) -> list[str]:
    """Train some steps; return the seconds of a step and both shares, as cells of a table."""
    waits, steps = [], []
    with contextlib.closing(reader.stream(reader.start())) as batches:
        step(next(batches))
        for _ in range(num_steps):
            started = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - started)
            step(batch)
            steps.append(time.perf_counter() - started)
    reads = statistics.median(seconds_per_batch(rows_in_order(reader)) for _ in range(3))
    seconds = statistics.median(steps)
    shares = (statistics.median(waits) / seconds, max(waits) / seconds, reads / seconds)
    return [f"{seconds:.3f}", *(f"{share:.4%}" for share in shares)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="directory that write_shards made")
    parser.add_argument("--context-tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=64, help="of a batch, for the rates")
    parser.add_argument("--step-rows", type=int, default=8, help="of a training step")
    parser.add_argument("--steps", type=int, default=8, help="training steps of each size")
    parser.add_argument("--sizes", nargs="*", default=["1m", "10m"], help="models to train")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    shards = ShardSet(options.shards, context_tokens=options.context_tokens)

    def reader_of(rows: int) -> BatchReader:
        return BatchReader(
            [Part(shards)], seed=1, rows_per_step=rows, distributed=DistributedContext()
        )

    with tempfile.TemporaryDirectory() as directory:
        flat = write_flat(options.shards, Path(directory) / "tokens.bin")
        sizes = {"rows": options.rows, "context_tokens": options.context_tokens}
        sides = {
            "ours": rows_in_order(reader_of(options.rows)),
            "np.memmap windows": windows(flat, **sizes),
        }
        times = compare(sides, repeat=options.repeat)
    print(describe())
    print(f"\n{shards.num_rows:,} rows, {shards.num_targets:,} targets\n")
    print("| loader | rows/s (min-max) | tokens/s |\n|---|---:|---:|")
    for name, seconds in times.items():
        rates = sorted(options.rows / item for item in seconds)
        middle = statistics.median(rates)
        spread = f"{middle:,.0f} ({rates[0]:,.0f}-{rates[-1]:,.0f})"
        print(f"| {name} | {spread} | {middle * options.context_tokens:,.0f} |")
    ratios = [plain / own for own, plain in zip(*times.values(), strict=True)]
    print(
        f"\n{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})\n"
    )
    print("| size | seconds a step | waits | waits at most | reads |\n|---|---:|---:|---:|---:|")
    for size in options.sizes:
        step = train_step(size, shards)
        cells = waiting(reader_of(options.step_rows), step, num_steps=options.steps)
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
