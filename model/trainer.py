"""The training loop: batch, step, record, maybe save, maybe validate, stop?

Built once per process from a ``TrainRun``; ``fit`` runs it to its horizon, from the newest
checkpoint if there is one. What a step computes does not depend on how it is spread: a global
batch has the same rows whatever the number of processes and the micro-batch, and its loss is the
mean over the targets of all of it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.attention import backend_name
from model.batches import Batch
from model.checkpoint import Checkpoints, LoopState
from model.compiling import compile_model
from model.distributed import StopRequest, World
from model.errors import TrainingError
from model.evaluate import Evaluation, evaluate
from model.generate import generate
from model.gpt import GPT, next_token_loss
from model.hardware import (
    Speedometer,
    compute_dtype,
    device_name,
    peak_flops_per_second,
    prepare_memory,
    share_threads,
)
from model.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from model.run_config import TrainRun
from model.tokenizer import Tokenizer
from model.tracker import EVENTS_NAME, EventKind, Tracker, metric_points, read_events
from model.training_inputs import build_model, build_reader, open_shards
from model.weights import save_model

logger = logging.getLogger(__name__)

MODEL_DIRECTORY = "model"
CHECKPOINTS_DIRECTORY = "checkpoints"
TRAINER_LOGS = {EVENTS_NAME, CHECKPOINTS_DIRECTORY}  # written beside the model, and not content
SAMPLE_TOKENS = 64
SAMPLE_TEMPERATURE = 0.8
SAMPLE_TOP_K = 50
MAX_NAMED_ROWS = 8


class TrainingInterruptedError(Exception):
    """Training was asked to stop and did, after a checkpoint; it is no failure."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass(frozen=True)
class Summary:
    """What a finished training has to say for its manifest."""

    counts: dict[str, int]
    facts: dict[str, Any]
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepOutcome:
    """What one step left on the device; reading it waits for the device."""

    step: int
    rows: npt.NDArray[np.int64]
    learning_rate: float
    loss: Float[Tensor, ""]
    gradient_norm: Float[Tensor, ""]


class RowLoss(nn.Module):
    """The loss as one module, so that whatever part of the model it uses is synchronised."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Int[Tensor, "B T1"],
        mask: Bool[Tensor, "B T1"],
        documents: Int[Tensor, "B T1"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the summed negative log-likelihood of the marked tokens."""
        return next_token_loss(self.model, ids, mask, documents)


def train(run: TrainRun, *, directory: Path, world: World, stop: StopRequest) -> Summary:
    """Connect this process with the others, train, and take the connection down.

    Args and errors are those of ``Trainer`` and its ``fit``.
    """
    stop.listen()
    prepare_memory(world.device)
    with world.process_group():
        return Trainer(run, directory=directory, world=world, stop=stop).fit()


class Trainer:
    """One process's part of one training.

    Args:
        run: what to train on what.
        directory: takes checkpoints, events and the finished model.
        world: this process among the others.
        stop: asked at each step boundary.

    Raises:
        ConfigError: the batch does not divide, or shards and tokenizer do not belong together.
        TrainingError: there are fewer tokens than one batch.
    """

    def __init__(self, run: TrainRun, *, directory: Path, world: World, stop: StopRequest) -> None:
        self.run, self.train, self.directory = run, run.train, directory
        self.world, self.stop = world, stop
        self.num_threads = share_threads(world)
        self.dtype = compute_dtype(run.train.precision, world.device)
        self.tokenizer = Tokenizer.load(run.path(run.tokenizer))
        self.validation = open_shards(run, run.validation, self.tokenizer)
        self.reader = build_reader(run, self.tokenizer, world)
        self.model = build_model(run, self.tokenizer).to(world.device)
        self.compiling = self._compile()
        self.optimizer = build_optimizer(self.model, run.train)
        self.row_loss = world.wrap(RowLoss(self.model))
        self.loop = LoopState(loader=self.reader.start())
        self.checkpoints = Checkpoints(
            directory / CHECKPOINTS_DIRECTORY,
            derivation_key=run.derivation.key,
            keep=run.train.keep_checkpoints,
        )
        self.tracker = (
            Tracker(directory / EVENTS_NAME, tracking=run.tracking) if world.is_main else None
        )
        self.speed = Speedometer()
        self.unread: list[StepOutcome] = []

    def _compile(self) -> str:
        rows = self.reader.rows_per_step // self.world.size
        tokens = self.num_steps * rows * self.run.model.context_tokens
        return compile_model(
            self.model,
            self.train.compile,
            self.world.device,
            rows=min(rows, self.train.micro_batch_rows),
            dtype=self.dtype,
            planned_flops=tokens * self.model.flops_per_token(),
        )

    @property
    def num_steps(self) -> int:
        """The horizon."""
        assert self.train.steps is not None, "build_reader checked"
        return self.train.steps

    def fit(self) -> Summary:
        """Train to the horizon, write the model, and return what there is to say about it.

        Raises:
            TrainingInterruptedError: a signal asked to stop; a checkpoint holds the work.
            TrainingError: the loss is not finite, or a batch has no targets.
            CheckpointError: the newest checkpoint belongs to another training.
            DiskSpaceError: a checkpoint does not fit on the disk.
        """
        self._start_or_resume()
        with contextlib.closing(self.reader.stream(self.loop.loader)) as batches:
            while self.loop.step < self.num_steps:
                outcome = self.step(next(batches))
                self.maybe_record(outcome)
                is_stopping = self.world.any(self.stop.is_set)
                self.maybe_checkpoint(is_stopping=is_stopping)
                if is_stopping and self.loop.step < self.num_steps:
                    self._interrupt()
                self.maybe_validate()
        return self._finish()

    # One step

    def step(self, batch: Batch) -> StepOutcome:
        """Take one optimizer step on a batch."""
        num_targets = self.world.sum(batch.num_targets)
        _require_targets(num_targets, step=self.loop.step + 1, rows=batch.rows)
        rate = learning_rate(self.loop.step, self.train)
        loss = self._backward(batch, num_targets=num_targets)
        norm = clip_gradients(self.model.parameters(), max_norm=self.train.gradient_clip_norm)
        outcome = StepOutcome(self.loop.step + 1, batch.rows, rate, loss, norm)
        self.unread.append(outcome)
        if self.world.device.type == "cpu":
            self._require_finite()
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loop.step += 1
        self.loop.tokens += self.train.batch_tokens_per_step
        self.loop.targets += num_targets
        self.loop.loader = batch.state
        return outcome

    def _backward(self, batch: Batch, *, num_targets: int) -> Float[Tensor, ""]:
        """Accumulate the gradient of the global mean loss, and return that loss."""
        rows = self.train.micro_batch_rows
        micro_batches = list(zip(batch.ids.split(rows), batch.mask.split(rows), strict=True))
        total = torch.zeros((), device=self.world.device)
        for index, (ids, mask) in enumerate(micro_batches):
            with self._synchronised(is_last=index == len(micro_batches) - 1):
                with self._autocast():
                    loss = self.row_loss(self._to_device(ids), self._to_device(mask))
                # Gradients are averaged over processes, the loss is a mean over all of them.
                (loss * (self.world.size / num_targets)).backward()
            total += loss.detach() / num_targets
        return self.world.sum_tensor(total)

    def _synchronised(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Exchange gradients with the last micro-batch only."""
        if isinstance(self.row_loss, nn.parallel.DistributedDataParallel) and not is_last:
            return self.row_loss.no_sync()
        return contextlib.nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.world.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.world.device, non_blocking=True)

    def _require_finite(self) -> None:
        """Check every step whose numbers were not read yet; on the CPU, that is before its update.

        On a GPU reading would wait for the device at every step, so it is done where numbers are
        needed anyway: before they are recorded, and before a checkpoint keeps what they spoilt.
        Losses and gradients are sums over all processes: each finds the same and all stop.
        """
        if not self.unread:
            return
        numbers = torch.stack([torch.stack((i.loss, i.gradient_norm)) for i in self.unread])
        for outcome, pair in zip(self.unread, numbers.tolist(), strict=True):
            if not all(map(math.isfinite, pair)):
                raise _not_finite(outcome, loss=pair[0], gradient_norm=pair[1])
        self.unread.clear()

    # What may follow a step

    def maybe_record(self, outcome: StepOutcome) -> None:
        """Record the numbers of a step, every so many steps and at the first and last."""
        step = outcome.step
        if step % self.train.log_every_steps and step not in (1, self.num_steps):
            return
        self._require_finite()
        tokens_per_second = self.speed.lap(self.loop.tokens)
        self._record(
            "train",
            {
                "train/loss": outcome.loss.item(),
                "train/learning_rate": outcome.learning_rate,
                "train/gradient_norm": outcome.gradient_norm.item(),
                "train/tokens": self.loop.tokens,
                "perf/tokens_per_second": tokens_per_second,
                **self._mfu(tokens_per_second),
            },
        )

    def maybe_checkpoint(self, *, is_stopping: bool) -> None:
        """Save, every so many steps, at the last, and before stopping."""
        step = self.loop.step
        is_due = step % self.train.checkpoint_every_steps == 0 or step == self.num_steps
        if not (is_due or is_stopping):
            return
        self._require_finite()
        if self.world.is_main:
            path = self.checkpoints.save(
                self.model, self.optimizer, self.loop, num_processes=self.world.size
            )
            self._record("checkpoint", {"path": path.relative_to(self.directory).as_posix()})
        self.speed.restart(self.loop.tokens)

    def maybe_validate(self) -> None:
        """Measure the validation loss, every so many steps and at the last."""
        step = self.loop.step
        if step % self.train.validate_every_steps and step != self.num_steps:
            return
        with self._autocast():
            share = evaluate(
                self.model,
                self.validation,
                self.tokenizer.bytes_per_token,
                max_tokens=self.train.validation_tokens,
                batch_rows=self.train.micro_batch_rows,
                rank=self.world.rank,
                world_size=self.world.size,
            )
        total = self._sum_evaluation(share)
        best = self.loop.best_validation_loss
        self.loop.best_validation_loss = min(total.loss, total.loss if best is None else best)
        metrics = {
            "validation/loss": total.loss,
            "validation/bits_per_byte": total.bits_per_byte,
        }
        self._record("validation", metrics)
        self._write_sample()
        self.speed.restart(self.loop.tokens)

    def _sum_evaluation(self, share: Evaluation) -> Evaluation:
        sums = torch.tensor(
            [share.nll_nats, share.num_targets, share.num_bytes], dtype=torch.float64
        )
        nll_nats, num_targets, num_bytes = self.world.sum_tensor(sums).tolist()
        return Evaluation(nll_nats, int(num_targets), int(num_bytes))

    def _write_sample(self) -> None:
        if not (self.world.is_main and self.run.sample_prompts):
            return
        prompt = self.run.sample_prompts[0]
        end = self.tokenizer.end_of_text_id
        ids = generate(
            self.model,
            [end, *self.tokenizer.encode(prompt)],
            num_tokens=SAMPLE_TOKENS,
            temperature=SAMPLE_TEMPERATURE,
            top_k=SAMPLE_TOP_K,
            seed=self.train.seed,
            stop_ids=(end,),
        )
        self._record("sample", {"prompt": prompt, "text": self.tokenizer.decode(ids)})

    def _mfu(self, tokens_per_second: float) -> dict[str, float]:
        """Return the share of the hardware's peak in use, where that peak is known."""
        device = self.world.device
        peak = peak_flops_per_second(device_name(device))
        if peak is None or self.dtype != torch.bfloat16:
            return {}
        used = tokens_per_second * self.model.flops_per_token()
        return {"perf/mfu": used / (peak * self.world.size)}

    def _record(self, kind: EventKind, values: dict[str, Any]) -> None:
        if self.tracker is None:
            return
        self.tracker.record(kind, step=self.loop.step, **values)
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        shown = ", ".join(f"{key} {value:.5g}" for key, value in numbers.items()) or values
        logger.info("step %d of %d: %s: %s", self.loop.step, self.num_steps, kind, shown)

    # Beginning and end

    def _start_or_resume(self) -> None:
        newest = self.checkpoints.newest() if self.world.is_main else None
        step = self.world.from_main(newest)
        if step:
            self.loop = self.checkpoints.load(step, self.model, self.optimizer)
        else:
            self.reader.warn_of_repetition(self.num_steps)
        self._record("resume" if step else "start", self._circumstances())
        self.speed.restart(self.loop.tokens)
        if step:  # the checkpoint was written before the validation of its step
            self.maybe_validate()

    def _circumstances(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "num_processes": self.world.size,
            "device": device_name(self.world.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "threads_per_process": self.num_threads,
            "compiling": self.compiling,
            "attention": backend_name(
                self.world.device,
                by_documents=False,
                is_compiled=self.model.model.training_block is not None,
            ),
            "peak_flops_per_second": peak_flops_per_second(device_name(self.world.device))
            or "unknown",
            "num_params": self.model.num_params(),
        }

    def _interrupt(self) -> None:
        self._record("end", {"state": "interrupted"})
        self._close()
        raise TrainingInterruptedError(self.loop.step)

    def _finish(self) -> Summary:
        if self.world.is_main:
            save_model(self.model, self.directory / MODEL_DIRECTORY)
        self._record("end", {"state": "complete"})
        self._close()
        counts = {"steps": self.loop.step, "tokens": self.loop.tokens, "targets": self.loop.targets}
        if not self.world.is_main:
            return Summary(counts, facts={}, metrics={})
        return self._summary(counts)

    def _summary(self, counts: dict[str, int]) -> Summary:
        events = read_events(self.directory / EVENTS_NAME)
        metrics = {point.key: point.value for event in events for point in metric_points(event)}
        by_step = {
            event["step"]: {point.key: point.value for point in metric_points(event)}
            for event in events
            if event["kind"] == "validation"
        }
        kept = [
            {"step": step, "path": f"{CHECKPOINTS_DIRECTORY}/{self.checkpoints.path(step).name}"}
            | {"metrics": by_step.get(step, {})}
            for step in self.checkpoints.steps()
        ]
        speeds = [event["perf/tokens_per_second"] for event in events if event["kind"] == "train"]
        facts = {
            "validation_loss": metrics["validation/loss"],
            "validation_bits_per_byte": metrics["validation/bits_per_byte"],
            "best_validation_loss": self.loop.best_validation_loss,
            "checkpoints": kept,
            "tokens_per_second": statistics.median(speeds),
            "metrics": metrics,
        }
        return Summary(counts, facts=facts | self._circumstances(), metrics=metrics)

    def _close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()


def _require_targets(num_targets: int, *, step: int, rows: npt.NDArray[np.int64]) -> None:
    if num_targets == 0:
        raise TrainingError(
            "a batch has no token to learn from",
            expected="at least one target per batch",
            found="every token is masked",
            where=f"step {step}, {_name_rows(rows)}",
            fix="set train.loss_on=all, or leave documents without targets out of the shards",
        )


def _not_finite(outcome: StepOutcome, *, loss: float, gradient_norm: float) -> TrainingError:
    return TrainingError(
        "the loss or its gradient is not finite",
        expected="finite numbers",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        where=f"step {outcome.step}, {_name_rows(outcome.rows)}",
        fix="lower train.learning_rate, raise train.warmup_steps, or set train.precision=float32; "
        "the checkpoints before are good",
    )


def _name_rows(rows: npt.NDArray[np.int64]) -> str:
    """Name the rows of a batch by mixture part, the first few of each."""
    names = []
    for part in np.unique(rows[:, 0]).tolist():
        own = rows[rows[:, 0] == part, 1].tolist()
        more = f" and {len(own) - MAX_NAMED_ROWS} more" if len(own) > MAX_NAMED_ROWS else ""
        first = ", ".join(map(str, own[:MAX_NAMED_ROWS]))
        names.append(f"rows {first}{more} of mixture part {part}")
    return "; ".join(names)
