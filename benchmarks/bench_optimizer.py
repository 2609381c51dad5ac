"""Steps to reach the final loss of a GPT-2 with AdamW, with our shape and optimizer.

    python -m benchmarks.bench_optimizer FOLDER [--seeds 3] [--steps 300] [--batch-tokens 8192]
        [--horizon 0.75] [--data-root DIRECTORY]

Prepares the parquet files of a folder once (tokenizer of 4,096 entries, rows of 256 tokens), then
trains two models of equal parameter count on the same rows in the same order: GPT-2's shape with
AdamW (``gpt2_peer``) and the 1m size with Muon. Each side tries three learning rates on the first
seed, over its whole horizon, and trains the other seeds with its best. Both have the same tokens
per step, warmup, schedule, clipping and precision. Our horizon is a share of the baseline's: a
crossing is where our validation loss, interpolated between two validations, first reaches the
baseline's last. Trainings run two at a time, one thread each; the CPU time of a training is that of
its steps, validation left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from benchmarks.bench_stages import TimedPipeline
from benchmarks.gpt2_peer import GPT2, GPT2Shape, gpt2_optimizer
from benchmarks.machine import describe
from flows.prepare import prepare_corpus
from flows.settings.config import PrepareConfig
from flows.settings.resolve import resolve
from model.config import defaults
from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.core.config import Config
from model.core.store import ArtifactStore
from model.data.shards import ShardSet
from model.eval.validation import evaluate
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.optim.optimizer import build_optimizer, clip_gradients, set_learning_rate
from model.optim.schedule import learning_rate_factor
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype
from model.text.tokenizer import Tokenizer
from model.train.loader import BatchReader, Part

MODEL = ModelConfig(size="1m", context_tokens=256)
VOCAB_SIZE = 4_096
MICRO_BATCH_ROWS = 16
VALIDATE_EVERY_STEPS = 20
VALIDATION_TOKENS = 2**15
BASELINE_RATES = (1e-3, 2e-3, 4e-3)
OUR_RATE_FACTORS = (0.5, 1.0, 2.0)  # of the rate the block matrices have by default

Side = Literal["baseline", "ours"]


class Trial(Config):
    """One training of one side."""

    side: Side
    rate: float
    seed: int
    steps: int
    batch_tokens: int
    tokenizer: str
    training: str
    validation: str


class Point(Config):
    """A validation on the way."""

    step: int
    loss: float
    bits_per_byte: float
    cpu_seconds: float
    seconds: float


class Curve(Config):
    """What became of a trial."""

    trial: Trial
    num_params: int
    points: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """The end of the training."""
        return self.points[-1]

    def crossing(self, loss: float) -> Point | None:
        """Return the interpolated point at which the loss is first reached; ``None`` if never."""
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after.loss <= loss < before.loss:
                share = (before.loss - loss) / (before.loss - after.loss)
                mixed = {
                    name: value + share * (getattr(after, name) - value) for name, value in before
                }
                return Point.model_construct(**mixed)
        return None


def build(trial: Trial, vocab_size: int) -> tuple[nn.Module, torch.optim.Optimizer, TrainConfig]:
    """Return a side's model, its optimizer and the schedule, which both share."""
    architecture = MODEL.architecture(vocab_size)
    given = TrainConfig(
        steps=trial.steps,
        batch_tokens_per_step=trial.batch_tokens,
        seed=trial.seed,
        learning_rate=trial.rate,
    )
    config = defaults.resolve(given, MODEL, vocab_size)
    if trial.side == "ours":
        model = GPT(architecture)
        model.init_weights(trial.seed)
        return model, build_optimizer(model, config, DistributedContext()), config
    peer = GPT2(GPT2Shape(vocab_size, MODEL.context_tokens), seed=trial.seed)
    optimizer = gpt2_optimizer(peer, learning_rate=trial.rate)
    for group in optimizer.param_groups:
        group["peak_learning_rate"] = trial.rate
    return peer, optimizer, config


def train(trial: Trial) -> Curve:
    """Train one side in this process, on one thread."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(Path(trial.tokenizer))
    training, validation = (
        ShardSet(Path(path), context_tokens=MODEL.context_tokens)
        for path in (trial.training, trial.validation)
    )
    model, optimizer, config = build(trial, tokenizer.vocab_size)
    rows_per_step = trial.batch_tokens // MODEL.context_tokens
    reader = BatchReader(
        [Part(training, 1.0)],
        seed=trial.seed,
        rows_per_step=rows_per_step,
        distributed=DistributedContext(),
    )
    dtype = compute_dtype("auto", torch.device("cpu"))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    batches, points = reader.stream(reader.start()), []
    cpu_seconds = seconds = 0.0
    for step in range(trial.steps):
        cpu_started, started = time.process_time(), time.perf_counter()
        batch = next(batches)
        micro_batches = zip(
            batch.ids.split(MICRO_BATCH_ROWS), batch.mask.split(MICRO_BATCH_ROWS), strict=True
        )
        for ids, mask in micro_batches:
            with autocast:
                loss = next_token_loss(model, ids, mask)  # pyright: ignore[reportArgumentType]
            (loss / batch.num_targets).backward()
        clip_gradients(model.parameters(), max_norm=config.gradient_clip_norm)
        set_learning_rate(optimizer, learning_rate_factor(step, config))
        optimizer.step()
        optimizer.zero_grad()
        cpu_seconds += time.process_time() - cpu_started
        seconds += time.perf_counter() - started
        if (step + 1) % VALIDATE_EVERY_STEPS and step + 1 != trial.steps:
            continue
        with autocast:
            found = evaluate(
                model,  # pyright: ignore[reportArgumentType]
                validation,
                tokenizer.bytes_per_token,
                max_tokens=VALIDATION_TOKENS,
            )
        points.append(
            Point(
                step=step + 1,
                loss=found.loss,
                bits_per_byte=found.bits_per_byte,
                cpu_seconds=cpu_seconds,
                seconds=seconds,
            )
        )
    num_params = sum(item.numel() for item in model.parameters())
    return Curve(trial=trial, num_params=num_params, points=tuple(points))


def prepare(folder: str, root: Path) -> dict[str, str]:
    """Make tokenizer and shards of a folder's text, and return where they lie."""
    settings = {
        "source": {"kind": "local", "path": folder},
        "tokenizer": {"vocab_size": VOCAB_SIZE, "sample_bytes": 10_000_000},
        "model": MODEL.model_dump(),
    }
    store = ArtifactStore(root)
    config = resolve("sample", settings, kind=PrepareConfig, store=store).config
    corpus = prepare_corpus(TimedPipeline(store, config), config)
    names = ("tokenizer", "training", "validation")
    return {name: str(store.path(getattr(corpus, name))) for name in names}


def run_trials(trials: list[Trial]) -> list[Curve]:
    """Train two at a time, each in a process of its own."""

    def run(trial: Trial) -> Curve:
        command = [sys.executable, "-m", "benchmarks.bench_optimizer", "--trial"]
        done = subprocess.run(
            [*command, trial.model_dump_json()], stdout=subprocess.PIPE, text=True, check=True
        )
        curve = Curve.model_validate_json(done.stdout.splitlines()[-1])
        note = f"{trial.side} rate {trial.rate:.3g} seed {trial.seed}: {curve.last.loss:.4f}"
        print(note, file=sys.stderr, flush=True)
        return curve

    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(run, trials))


def compare(base: Trial, *, horizon: float, num_seeds: int) -> tuple[list[Curve], list[Curve]]:
    """Return the tries of both sides on the first seed, then all seeds with the best of each."""
    own_rate = defaults.resolve(
        TrainConfig(steps=base.steps, batch_tokens_per_step=base.batch_tokens), MODEL, VOCAB_SIZE
    ).learning_rate
    assert own_rate
    sides: dict[Side, Trial] = {
        "baseline": base,
        "ours": base.model_copy(update={"side": "ours", "steps": round(horizon * base.steps)}),
    }
    rates = {"baseline": BASELINE_RATES, "ours": [own_rate * item for item in OUR_RATE_FACTORS]}
    tries = run_trials(
        [
            trial.model_copy(update={"rate": rate})
            for side, trial in sides.items()
            for rate in rates[side]
        ]
    )
    best = {
        side: min(
            (item for item in tries if item.trial.side == side), key=lambda item: item.last.loss
        )
        for side in sides
    }
    others = run_trials(
        [
            item.trial.model_copy(update={"seed": seed})
            for seed in range(2, num_seeds + 1)
            for item in best.values()
        ]
    )
    return tries, [*best.values(), *others]


def report(tries: list[Curve], curves: list[Curve]) -> str:
    """Return all figures as Markdown tables."""
    return "\n\n".join([_tries_table(tries), _pairs_table(curves), _curve_table(curves)])


def _tries_table(tries: list[Curve]) -> str:
    rows = [
        "| side | parameters | rate | steps | last validation loss |",
        "|---|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {item.trial.side} | {item.num_params:,} | {item.trial.rate:.3g} "
        f"| {item.trial.steps} | {item.last.loss:.4f} |"
        for item in tries
    ]
    return "\n".join(rows)


def _pairs_table(curves: list[Curve]) -> str:
    rows = [
        "| seed | baseline ends at | in bits per byte | ours ends at | ours reaches it at step "
        "| steps, ours / baseline | CPU time | wall-clock |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    ratios = []
    for seed in sorted({item.trial.seed for item in curves}):
        baseline, ours = (
            next(item for item in curves if (item.trial.side, item.trial.seed) == (side, seed))
            for side in ("baseline", "ours")
        )
        end, reached = baseline.last, ours.crossing(baseline.last.loss)
        head = f"| {seed} | {end.loss:.4f} | {end.bits_per_byte:.4f} | {ours.last.loss:.4f} "
        if reached is None:
            rows.append(head + "| never | - | - | - |")
            ratios.append([math.inf] * 3)
            continue
        ratio = [reached.step / end.step, reached.cpu_seconds / end.cpu_seconds]
        ratio.append(reached.seconds / end.seconds)
        ratios.append(ratio)
        rows.append(head + f"| {reached.step:.0f} | {' | '.join(f'{r:.3f}' for r in ratio)} |")
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    rows.append("| median | | | | | " + " | ".join(f"{item:.3f}" for item in medians) + " |")
    return "\n".join(rows)


def _curve_table(curves: list[Curve]) -> str:
    names = [f"{item.trial.side}, seed {item.trial.seed}" for item in curves]
    rows = [f"| step | {' | '.join(names)} |", "|---:|" + "---:|" * len(names)]
    losses = [{point.step: point.loss for point in item.points} for item in curves]
    for step in sorted(set().union(*losses)):
        cells = [f"{each[step]:.4f}" if step in each else "" for each in losses]
        rows.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure and print; with ``--trial``, be one training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="folder of parquet files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-tokens", type=int, default=8_192)
    parser.add_argument("--horizon", type=float, default=0.75)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(train(Trial.model_validate_json(options.trial)).model_dump_json())
        return
    with tempfile.TemporaryDirectory() as directory:
        paths = prepare(options.folder, options.data_root or Path(directory))
        base = Trial(
            side="baseline",
            rate=BASELINE_RATES[0],
            seed=1,
            steps=options.steps,
            batch_tokens=options.batch_tokens,
            **paths,
        )
        tries, curves = compare(base, horizon=options.horizon, num_seeds=options.seeds)
    print(describe())
    print(json.dumps({"horizon": options.horizon, "batch_tokens": options.batch_tokens}) + "\n")
    print(report(tries, curves))


if __name__ == "__main__":
    main()
