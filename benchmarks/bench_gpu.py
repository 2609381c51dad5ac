"""Training speed of one CUDA GPU at the 135m size, against an anchor of 490,000 tokens/s.

    python -m benchmarks.bench_gpu [--rows 64] [--steps 20] [--size 135m] [--mode compiled]

Synthetic shards are written to a temporary folder and read by the training's own reader; a step is
2^19 tokens of 1,024 of context, with our optimizer, bf16 autocast and compiled blocks. Prints
tokens/s, model FLOPs utilisation, memory, and what a checkpoint costs. The first steps warm up and
are not counted. Needs only what training needs. Exit status 2, and no figure, without a GPU.

Source of the anchor: a public run of a 124M-class model of this shape on one H200 (about 42 %
utilisation). The GPU parts of this script have not been run where it was written.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.data.rows import Segments, write_rows
from model.data.shards import ShardHeader, ShardSet, write_shard
from model.network.attention import backend_name
from model.network.compiling import compile_model
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.optim.optimizer import build_optimizer, clip_gradients
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import (
    compute_dtype,
    device_name,
    manual_garbage_collection,
    peak_flops_per_second,
    prepare_memory,
)
from model.train.checkpoint import Checkpoints
from model.train.loader import Batch, BatchReader, Part
from model.train.snapshot import LoopState, Snapshot

ANCHOR_TOKENS_PER_SECOND = 490_000.0
VOCAB_SIZE = 32_768
CONTEXT_TOKENS = 1024


def write_synthetic(directory: Path, *, num_rows: int) -> ShardSet:
    """Write full rows of skewed random tokens in documents of one row each."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    num_tokens = num_rows * CONTEXT_TOKENS + 1
    tokens = np.minimum(rng.zipf(1.2, num_tokens), VOCAB_SIZE - 1).astype(np.uint16)
    lengths = np.full(num_rows, CONTEXT_TOKENS, dtype=np.int64)
    lengths[-1] += 1
    header = ShardHeader(
        tokenizer_fingerprint="synthetic",
        vocab_size=VOCAB_SIZE,
        split="train",
        seed=1,
        files=("synthetic",),
    )
    write_shard(
        directory / "shard-00000.arrow",
        docs=np.arange(num_rows, dtype=np.int64),
        lengths=lengths,
        tokens=tokens,
        header=header,
    )
    segments = Segments(
        row_offsets=np.arange(num_rows + 1, dtype=np.int64),
        shard=np.zeros(num_rows, dtype=np.int32),
        start=np.arange(num_rows, dtype=np.int64) * CONTEXT_TOKENS,
        length=np.full(num_rows, CONTEXT_TOKENS + 1, dtype=np.int32),
    )
    write_rows(directory / "rows.arrow", segments, context_tokens=CONTEXT_TOKENS)
    return ShardSet(directory, context_tokens=CONTEXT_TOKENS)


class Run:
    """A model in training, without the loop's records."""

    def __init__(self, options: argparse.Namespace, device: torch.device, directory: Path) -> None:
        self.rows, self.device, self.directory = options.rows, device, directory
        distributed = DistributedContext(device=device)
        train = TrainConfig(steps=10_000, batch_tokens_per_step=options.step_tokens)
        rows_per_step = options.step_tokens // CONTEXT_TOKENS
        shards = write_synthetic(directory / "shards", num_rows=4 * rows_per_step)
        self.reader = BatchReader(
            [Part(shards)], seed=1, rows_per_step=rows_per_step, distributed=distributed
        )
        self.dtype = compute_dtype("auto", device)
        config = ModelConfig(size=options.size, context_tokens=CONTEXT_TOKENS)
        self.model = GPT(config.architecture(VOCAB_SIZE))
        self.model.init_weights(1)
        self.model.to(device)
        mode = "on" if options.mode == "compiled" else "off"
        self.how = compile_model(self.model, mode, device, rows=self.rows, dtype=self.dtype)
        self.optimizer = build_optimizer(self.model, train, distributed)

    def step(self, batch: Batch) -> torch.Tensor:
        """Take one optimizer step and return its loss, on the device."""
        total = torch.zeros((), device=self.device)
        pieces = zip(batch.ids.split(self.rows), batch.mask.split(self.rows), strict=True)
        for ids, mask in pieces:
            ids, mask = (item.to(self.device, non_blocking=True) for item in (ids, mask))
            with torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
            ):
                loss = next_token_loss(self.model, ids, mask) / batch.num_targets
            loss.backward()
            total += loss.detach()
        clip_gradients(self.model.parameters(), max_norm=1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def checkpoint_seconds(self) -> float:
        """Return how long the loop stands still for a checkpoint."""
        checkpoints = Checkpoints(self.directory / "checkpoints", derivation_key="0", keep=1)
        synchronise(self.device)
        started = time.perf_counter()
        loop = LoopState(loader=self.reader.start())
        checkpoints.write(Snapshot.take(self.model, self.optimizer, loop, num_processes=1))
        return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(options: argparse.Namespace, device: torch.device, directory: Path) -> None:
    """Train some steps and print what was measured."""
    run = Run(options, device, directory)
    seconds: list[float] = []
    losses: list[torch.Tensor] = []
    with manual_garbage_collection():
        for index, batch in enumerate(run.reader.stream(run.reader.start())):
            synchronise(device)
            started = time.perf_counter()
            losses.append(run.step(batch))
            synchronise(device)
            if index >= options.warmup:
                seconds.append(time.perf_counter() - started)
            if len(seconds) == options.steps:
                break
    rates = [options.step_tokens / item for item in seconds]
    rate = statistics.median(rates)
    peak = peak_flops_per_second(device_name(device))
    used = rate * run.model.architecture.flops_per_token()
    saving = run.checkpoint_seconds()
    attention = backend_name(
        device, by_documents=False, is_compiled=run.model.model.training_block is not None
    )
    print(f"{device_name(device)}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{options.size}, {run.model.num_params():,} parameters; {run.how}; {run.dtype}")
    print(f"attention: {attention}; {options.rows} rows at once")
    print(f"loss: first {losses[0].item():.3f}, last {losses[-1].item():.3f}")
    print(f"tokens/s: {rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})")
    print(f"of the anchor's {ANCHOR_TOKENS_PER_SECOND:,.0f}: {rate / ANCHOR_TOKENS_PER_SECOND:.2f}")
    print(f"model FLOPs/s: {used:.3e}; utilisation: {f'{used / peak:.1%}' if peak else 'unknown'}")
    if device.type == "cuda":
        print(f"memory, greatest: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    print(f"checkpoint: {saving:.2f} s, {saving / statistics.median(seconds):.1f} steps' time")


def main() -> int:
    """Measure and print, if there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="135m")
    parser.add_argument("--rows", type=int, default=64, help="rows of a micro-batch")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--step-tokens", type=int, default=2**19)
    parser.add_argument("--mode", default="compiled", choices=["compiled", "eager"])
    parser.add_argument("--on-cpu", action="store_true", help="try the script itself, slowly")
    options = parser.parse_args()
    if not (torch.cuda.is_available() or options.on_cpu):
        print("not run: no CUDA device")
        return 2
    device = torch.device("cpu") if options.on_cpu else torch.device("cuda", 0)
    prepare_memory(device)
    with tempfile.TemporaryDirectory() as directory:
        measure(options, device, Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
