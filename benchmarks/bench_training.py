"""Training speed on this machine: ours against transformers' Qwen3 and GPT-2, in turns.

    python -m benchmarks.bench_training [--sizes 17m 49m] [--rounds 5] [--rows 1 2 4] [--threads N]

All sides train on random ids, 1,024 tokens of context, in the best precision of the CPU (bf16 by
autocast where it has instructions for it), and lie compiled in processes of their own that wait
while another is measured. Each takes the micro-batch, of those given, that is fastest for it. Qwen3
has our shape; GPT-2 our width, depth, heads and vocabulary. Both as their users run them:
``torch.compile`` of the whole model and its loss, fused AdamW; ours with ``compile_model``, our
optimizer and ``keep_freed_memory``.

A round times one micro-batch, forward and backward, and one optimizer step of every side; a full
step is put together from them in the proportion of ``--step-tokens`` per optimizer step. Model
FLOPs are ``Architecture.flops_per_token`` for ours. The matmul rate is measured in every round.
A first run compiles six graphs or more: minutes. A try: ``--sizes 17m --rounds 2 --rows 2``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.training_sides import architecture_of

SIDES = ("ours", "qwen3", "gpt2")
HERE = Path(__file__).parent


class Side:
    """One side in a process of its own, which measures on request."""

    def __init__(self, name: str, size: str, options: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "benchmarks.training_sides", name, size]
        self.name = name
        self.process = subprocess.Popen(
            [*command, str(options.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
            env=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
        )
        self.rows = self._fastest(options.rows)

    def ask(self, *words: object) -> dict[str, Any]:
        """Send one line and return the answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: see its error above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _fastest(self, candidates: list[int]) -> int:
        """Compile every candidate and return the rows with the most tokens per second."""
        speeds = {}
        for rows in candidates:
            started = time.perf_counter()
            self.ask("prepare", rows)
            first = time.perf_counter() - started
            answers = [self.ask("micro", rows) for _ in range(2 if len(candidates) > 1 else 0)]
            speeds[rows] = rows / min((item["seconds"] for item in answers), default=1.0)
            print(f"  {self.name}: {rows} rows ready after {first:.0f} s", file=sys.stderr)
        return max(speeds, key=lambda rows: speeds[rows])


@dataclass
class Series:
    """What the rounds gave for one side."""

    micro: list[dict[str, float]] = field(default_factory=list)
    update: list[dict[str, float]] = field(default_factory=list)

    def rates(self, clock: str, *, micro_tokens: int, step_tokens: int) -> list[float]:
        """Return tokens per second of full steps, one for each round."""
        num_micro = step_tokens / micro_tokens
        return [
            step_tokens / (num_micro * micro[clock] + update[clock])
            for micro, update in zip(self.micro, self.update, strict=True)
        ]


def measure(size: str, options: argparse.Namespace) -> None:
    """Run the rounds of one size and print its table."""
    sides = [Side(name, size, options) for name in SIDES]
    series = {side.name: Series() for side in sides}
    matmul: list[dict[str, float]] = []
    for _ in range(options.rounds):
        matmul.append(sides[0].ask("matmul"))
        for side in sides:
            series[side.name].micro.append(side.ask("micro", side.rows))
            series[side.name].update.append(side.ask("update"))
    facts = {side.name: side.ask("facts") for side in sides}
    for side in sides:
        side.close()
    rates = {
        (side.name, clock): series[side.name].rates(
            clock, micro_tokens=side.rows * 1024, step_tokens=options.step_tokens
        )
        for side in sides
        for clock in ("seconds", "cpu_seconds")
    }
    architecture = architecture_of(size)
    print(f"\n### {size}: {architecture.num_params():,} parameters of ours\n")
    print("| side | rows | tokens/s (min-max) | tokens/CPU s | optimizer, s | ours is faster |")
    print("|---|---:|---:|---:|---:|---:|")
    for side in sides:
        wall, cpu = rates[side.name, "seconds"], rates[side.name, "cpu_seconds"]
        update = statistics.median(item["seconds"] for item in series[side.name].update)
        ratios = [a / b for a, b in zip(rates["ours", "seconds"], wall, strict=True)]
        cpu_ratios = [a / b for a, b in zip(rates["ours", "cpu_seconds"], cpu, strict=True)]
        print(
            f"| {side.name}, {facts[side.name]['num_params']:,} | {side.rows} | {spread(wall)} "
            f"| {spread(cpu)} | {update:.2f} "
            f"| {spread(ratios, 2)}; by CPU time {spread(cpu_ratios, 2)} |"
        )
    print(f"\nours: {facts['ours']['how']}; {facts['ours']['dtype']}")
    for clock, unit in (("seconds", "wall clock"), ("cpu_seconds", "CPU time")):
        own = [rate * architecture.flops_per_token() for rate in rates["ours", clock]]
        for shape in ("square", "model"):
            speeds = [item[f"{shape}_flops"] / item[f"{shape}_{clock}"] for item in matmul]
            shares = [a / b for a, b in zip(own, speeds, strict=True)]
            print(
                f"- {unit}, {shape} matmuls {spread([s / 1e9 for s in speeds])} GFLOP/s: "
                f"model FLOPs are {spread([100 * share for share in shares])} % of it"
            )


def spread(values: list[float], digits: int = 0) -> str:
    """Return median, least and greatest."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["17m", "49m"], choices=["17m", "49m"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4], help="to choose from")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--step-tokens", type=int, default=32_768)
    options = parser.parse_args()
    print(describe())
    print(f"{options.threads} threads, {options.step_tokens:,} tokens per optimizer step")
    for size in options.sizes:
        measure(size, options)


if __name__ == "__main__":
    main()
