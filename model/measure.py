"""Measure how fast a model trains on this machine: the process behind the measure_speed stage.

    python -m model.measure --config <path>
    python -m torch.distributed.run --standalone --nproc-per-node=N -m model.measure --config <path>

The config is a ``MeasureRun``; rank 0 writes a ``Speed``. Whole optimizer steps are taken on random
tokens, with the training's own model, loss, optimizer and precision. Where a step has many equal
micro-batches, a few of them stand for all.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from model.accumulation import RowLoss
from model.child_runs import MeasureRun, Speed, parse_config_path, run_child
from model.distributed import World, die_with_parent
from model.gpt import GPT
from model.hardware import compute_dtype, device_name, share_threads
from model.optim import build_optimizer, clip_gradients
from model.store import write_synced
from model.train_config import batch_tokens_of, rows_per_step

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 10.0
LEAST_STEPS = 3
MOST_STEPS = 50
MOST_MICRO_BATCHES = 8  # of a measured step


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one measured step."""

    micro_batches: float
    update: float


class SpeedTrial:
    """Training steps on random tokens, one clock for their micro-batches and one for their end.

    Args:
        run: what would be trained.
        world: this process among the others.
    """

    def __init__(self, run: MeasureRun, world: World) -> None:
        self.run, self.train, self.world = run, run.train, world
        share_threads(world)
        self.dtype = compute_dtype(run.train.precision, world.device)
        self.model = GPT(run.model.architecture(run.vocab_size))
        self.model.init_weights(run.train.seed)
        self.model = self.model.to(world.device)
        self.optimizer = build_optimizer(self.model, run.train, world)
        self.row_loss = world.wrap(RowLoss(self.model))
        spread = run.train.model_copy(update={"processes": world.size})
        self.rows = rows_per_step(spread, run.model) // world.size
        self.micro_rows = min(self.rows, run.train.micro_batch_rows)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a real step in this process, a smaller last one counted whole."""
        return -(-self.rows // self.micro_rows)

    def measure(self) -> Speed:
        """Return the speed of whole steps."""
        with self.world.process_group():
            self.step()  # compilation, allocator, optimizer state
            first = self.step()
            wanted = int(MEASURED_SECONDS / (first.micro_batches + first.update))
            num_steps = self.world.from_main(max(LEAST_STEPS, min(MOST_STEPS, wanted)))
            times = [self.step() for _ in range(num_steps)]
        plain = self._num_plain()
        seconds = statistics.median(item.micro_batches for item in times) / max(1, plain)
        update = statistics.median(item.update for item in times)
        step_seconds = (self.num_micro_batches - 1) * seconds + update
        return Speed(
            tokens_per_second=batch_tokens_of(self.train) / step_seconds,
            micro_batch_seconds=seconds if plain else update,
            update_seconds=update,
            micro_batches_per_step=self.num_micro_batches,
            device=device_name(self.world.device),
            precision=str(self.dtype).removeprefix("torch."),
        )

    def step(self) -> StepTimes:
        """Take one step, of fewer micro-batches where a real one has very many."""
        started = self._clock()
        for _ in range(self._num_plain()):
            self._backward(is_last=False)
        between = self._clock()
        self._backward(is_last=True)
        clip_gradients(self.model.parameters(), max_norm=self.train.gradient_clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepTimes(between - started, self._clock() - between)

    def _num_plain(self) -> int:
        return min(self.num_micro_batches, MOST_MICRO_BATCHES) - 1

    def _backward(self, *, is_last: bool) -> None:
        ids, mask = self._random_rows()
        with torch.autocast(
            self.world.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        ):
            loss = self.row_loss(ids, mask) / mask.numel()
        if isinstance(self.row_loss, nn.parallel.DistributedDataParallel) and not is_last:
            with self.row_loss.no_sync():
                loss.backward()
        else:
            loss.backward()

    def _random_rows(self) -> tuple[Int[Tensor, "B T1"], Bool[Tensor, "B T1"]]:
        shape = (self.micro_rows, self.run.model.context_tokens + 1)
        ids = torch.randint(self.run.vocab_size, shape, device=self.world.device)
        return ids, torch.ones(shape, dtype=torch.bool, device=self.world.device)

    def _clock(self) -> float:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        return time.perf_counter()


def main(arguments: list[str] | None = None) -> int:
    """Measure as a config file says, and return the exit status."""
    path = parse_config_path(arguments, description=__doc__)
    world = World.from_environment()
    logging.basicConfig(level=logging.INFO if world.is_main else logging.WARNING)
    if world.size > 1:  # torchrun's agent passes no signal on once it is killed itself
        die_with_parent()

    def make(config: Path) -> None:
        run = MeasureRun.load(config)
        speed = SpeedTrial(run, world).measure()
        if world.is_main:
            write_synced(Path(run.destination), speed.model_dump_json(indent=1).encode())

    status = run_child(path, make)
    if world.size > 1:
        world.leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
