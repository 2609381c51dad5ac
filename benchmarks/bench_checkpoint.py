"""Training time lost to a checkpoint: ours, asynchronous, against ``torch.save``.

    python -m benchmarks.bench_checkpoint [--sizes 10m 49m] [--repeat 5] [--steps 6]

Each round takes the same few training steps three times, in turning order: without a checkpoint,
with ours, and with a synchronous ``torch.save`` of the same weights and optimizer state to one
file. A checkpoint begins after the first step. Ours is waited for at the end, so what the steps did
not hide counts as lost; it also hashes and syncs its files, which ``torch.save`` does not.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.machine import describe
from model.config.defaults import with_defaults
from model.config.network import ModelConfig
from model.config.train import TrainConfig
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.optim.optimizer import Optimizer, build_optimizer
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype
from model.train.checkpoint import Checkpoints, CheckpointWriter
from model.train.loader import LoaderState
from model.train.snapshot import LoopState

VOCAB_SIZE = 32_768
CONTEXT_TOKENS = 256
ROWS = 2
ARMS = ("none", "ours", "torch.save")


@dataclass
class Training:
    """A model with its optimizer, and a way to take a step."""

    model: GPT
    optimizer: Optimizer
    ids: torch.Tensor = field(
        default_factory=lambda: torch.randint(VOCAB_SIZE, (ROWS, CONTEXT_TOKENS + 1))
    )

    @classmethod
    def of_size(cls, size: str) -> Training:
        """Return a training after its first step, so that the optimizer has state."""
        config = ModelConfig.model_validate({"size": size, "context_tokens": CONTEXT_TOKENS})
        model = GPT(config.architecture(VOCAB_SIZE))
        model.init_weights(1)
        config = with_defaults(TrainConfig(steps=100), model.architecture)
        training = cls(model, build_optimizer(model, config, DistributedContext()))
        training.step()
        return training

    def step(self) -> None:
        """Take one step."""
        dtype = compute_dtype("auto", torch.device("cpu"))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = next_token_loss(
                self.model, self.ids, torch.ones_like(self.ids, dtype=torch.bool)
            )
        (loss / self.ids[:, 1:].numel()).backward()
        self.optimizer.update(torch.ones(()))
        self.optimizer.zero_grad(set_to_none=True)


@dataclass
class Round:
    """Seconds of one arm, and for how long it held the loop up at once."""

    seconds: float
    held_seconds: float


def measure(training: Training, *, num_steps: int, arm: str, directory: Path) -> Round:
    """Take some steps with the checkpoint of an arm after the first."""
    checkpoints = Checkpoints(directory, derivation_key="a" * 64, keep=1)
    loop = LoopState(loader=LoaderState(fingerprint="f", num_rows=0, part_rows=(0,)), step=1)
    started = time.perf_counter()
    with CheckpointWriter(checkpoints) as writer:
        begin: dict[str, Callable[[], object]] = {
            "none": lambda: None,
            "ours": lambda: writer.begin(training.model, training.optimizer, loop, num_processes=1),
            "torch.save": lambda: torch.save(
                {
                    "model": training.model.state_dict(),
                    "optimizer": training.optimizer.state_dict(),
                },
                directory / "checkpoint.pt",
            ),
        }
        training.step()
        saving = time.perf_counter()
        begin[arm]()
        held = time.perf_counter() - saving
        for _ in range(num_steps - 1):
            training.step()
        writer.wait()
    seconds = time.perf_counter() - started
    shutil.rmtree(directory)
    return Round(seconds, held)


def compare(size: str, *, repeat: int, num_steps: int) -> str:
    """Return the lines of one size."""
    training = Training.of_size(size)
    lost: dict[str, list[float]] = {arm: [] for arm in ARMS}
    held: dict[str, list[float]] = {arm: [] for arm in ARMS}
    plain: list[float] = []
    for number in range(repeat):
        rounds = {}
        for arm in (*ARMS[number % 3 :], *ARMS[: number % 3]):
            directory = Path(tempfile.mkdtemp(prefix="checkpoint-"))
            rounds[arm] = measure(training, num_steps=num_steps, arm=arm, directory=directory)
        plain.append(rounds["none"].seconds / num_steps)
        for arm in ARMS:
            lost[arm].append(rounds[arm].seconds - rounds["none"].seconds)
            held[arm].append(rounds[arm].held_seconds)
    return "\n".join(
        f"| {size} | {arm} | {spread(held[arm])} | {spread(lost[arm])} | {spread(plain)} |"
        for arm in ARMS[1:]
    )


def spread(values: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print the comparison as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["10m", "49m"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    print(describe())
    print("\n| size | checkpoint | seconds the loop stood | seconds lost | a step |")
    print("|---|---|---:|---:|---:|")
    for size in arguments.sizes:
        print(compare(size, repeat=arguments.repeat, num_steps=arguments.steps), flush=True)


if __name__ == "__main__":
    main()
