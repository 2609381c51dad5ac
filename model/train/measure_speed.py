"""Measure the training throughput of a model: the process behind the measure_speed stage.

    python -m model.train.measure_speed --config <path>
    python -m torch.distributed.run --standalone --nproc-per-node=N -m model.train.measure_speed
    --config <path>

The config is a ``MeasureRun``; rank 0 writes a ``Speed``. Optimizer steps on random tokens are
timed, with the training's own model, loss, optimizer and precision; of a step with many equal
micro-batches only some are run. With ``train.compile=auto`` a CPU is measured uncompiled:
whether a run compiles depends on its horizon, which is unknown yet.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from model.config.runs import MeasureRun, Speed
from model.config.train import batch_tokens_of, rows_per_step
from model.core.files import write_synced
from model.core.processes import end_with_parent
from model.network.compiling import compile_model
from model.network.gpt import GPT
from model.optim.optimizer import build_optimizer, clip_gradients
from model.runtime.child_process import parse_config_path, run_child
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import compute_dtype, device_name, share_threads
from model.train.accumulation import Accumulator
from model.train.loader import Batch, LoaderState
from model.train.objectives import NextTokenLoss

logger = logging.getLogger(__name__)

MEASURED_SECONDS = 10.0
LEAST_STEPS = 3
MOST_STEPS = 50
MOST_MICRO_BATCHES = 8  # of a measured step
DOCUMENT_TOKENS = 512  # of the random documents, for attention within documents


class SpeedTrial:
    """Timed training steps on random tokens."""

    def __init__(self, run: MeasureRun, distributed: DistributedContext) -> None:
        self.run, self.train, self.distributed = run, run.train, distributed
        share_threads(distributed)
        self.dtype = compute_dtype(run.train.precision, distributed.device)
        self.model = GPT(run.model.architecture(run.vocab_size))
        self.model.init_weights(run.train.seed)
        self.model = self.model.to(distributed.device)
        spread = run.train.model_copy(update={"processes": distributed.size})
        self.num_rows = rows_per_step(spread, run.model) // distributed.size
        self.by_documents = run.train.attention == "document"
        rows = min(self.num_rows, run.train.micro_batch_rows)
        self.compiling = "eager: a CPU is measured before the horizon is known"
        if run.train.compile != "auto" or distributed.device.type == "cuda":
            self.compiling = compile_model(
                self.model,
                run.train.compile,
                distributed.device,
                rows=rows,
                dtype=self.dtype,
                by_documents=self.by_documents,
            )
        self.optimizer = build_optimizer(self.model, run.train, distributed)
        self.accumulator = Accumulator(
            NextTokenLoss(self.model), distributed=distributed, dtype=self.dtype, rows=rows
        )

    def measure(self) -> Speed:
        """Return the throughput of whole steps."""
        self.accumulator.fit_into_memory(self._random_batch(1), self.optimizer)
        num_all = -(-self.num_rows // self.accumulator.rows)
        num_some = min(num_all, MOST_MICRO_BATCHES)
        self._step(1)  # compilation, allocator, optimizer state
        first = self._step(num_some)
        wanted = max(LEAST_STEPS, min(MOST_STEPS, int(MEASURED_SECONDS / first)))
        num_steps = self.distributed.from_main(wanted)
        some = statistics.median(self._step(num_some) for _ in range(num_steps))
        each = some
        if num_some > 1:
            one = statistics.median(self._step(1) for _ in range(num_steps))
            each = max(0.0, some - one) / (num_some - 1)
        seconds = some + (num_all - num_some) * each
        return Speed(
            tokens_per_second=batch_tokens_of(self.train) / seconds,
            step_seconds=seconds,
            micro_batch_seconds=each,
            micro_batches_per_step=num_all,
            device=device_name(self.distributed.device),
            precision=str(self.dtype).removeprefix("torch."),
            compiling=self.compiling,
        )

    def _step(self, num_micro_batches: int) -> float:
        """Take a step of some micro-batches and return its duration in seconds."""
        batch = self._random_batch(num_micro_batches)
        started = self._clock()
        targets = self.distributed.size * batch.num_targets
        self.accumulator.backward(batch, num_terms=targets)
        clip_gradients(self.model.parameters(), max_norm=self.train.gradient_clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._clock() - started

    def _random_batch(self, num_micro_batches: int) -> Batch:
        num_rows = min(self.num_rows, num_micro_batches * self.accumulator.rows)
        shape = (num_rows, self.run.model.context_tokens + 1)
        places = torch.arange(shape[1]).expand(shape)
        return Batch(
            documents=places // DOCUMENT_TOKENS if self.by_documents else None,
            ids=torch.randint(self.run.vocab_size, shape),
            mask=torch.ones(shape, dtype=torch.bool),
            num_targets=num_rows * self.run.model.context_tokens,
            rows=np.zeros((num_rows, 2), dtype=np.int64),
            state=LoaderState(fingerprint="", num_rows=0, part_rows=()),
        )

    def _clock(self) -> float:
        if self.distributed.device.type == "cuda":
            torch.cuda.synchronize(self.distributed.device)
        return time.perf_counter()


def main(arguments: list[str] | None = None) -> int:
    """Measure as a config file says, and return the exit status."""
    path = parse_config_path(arguments, description=__doc__)
    distributed = DistributedContext.from_environment()
    logging.basicConfig(level=logging.INFO if distributed.is_main else logging.WARNING)
    if distributed.size > 1:  # a killed torchrun agent forwards no signal
        end_with_parent()

    def make(config: Path) -> None:
        run = MeasureRun.load(config)
        with distributed.process_group():
            speed = SpeedTrial(run, distributed).measure()
        if distributed.is_main:
            write_synced(Path(run.destination), speed.model_dump_json(indent=1).encode())

    status = run_child(path, make)
    if distributed.size > 1:
        distributed.leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
