"""The training loop: batch, step, maybe record, maybe checkpoint, stop?, maybe validate.

``train`` builds a ``Trainer`` from a ``TrainRun``; a long training first does a smoke run of a few
steps, and resumes it. ``fit`` runs to the horizon, from the newest checkpoint if there is one. A
step does not depend on parallelism: a global batch has the same rows, and its loss is the mean over
all of them, whatever the number of processes and the micro-batch.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.config.outputs import TrainingEnvironment, TrainModelOutputs
from model.config.runs import TrainRun
from model.config.train import batch_tokens_of
from model.network.attention import backend_name
from model.network.compiling import compile_model
from model.network.weights import save_model
from model.optim.optimizer import build_optimizer, clip_gradients, set_learning_rate
from model.optim.schedule import flat_steps, learning_rate_factor
from model.runtime.distributed import DistributedContext, StopRequest
from model.runtime.hardware import (
    compute_dtype,
    device_name,
    manual_garbage_collection,
    peak_flops_per_second,
    prepare_memory,
    share_threads,
)
from model.text.tokenizer import Tokenizer
from model.train.accumulation import Accumulator
from model.train.checkpoint import Checkpoints, CheckpointWriter
from model.train.extend_horizon import take_over
from model.train.loader import Batch, whole_groups
from model.train.recorder import Recorder, TrainingSummary
from model.train.setup import build_model, build_objective, build_reader, open_shards
from model.train.smoke_run import smoke_run
from model.train.snapshot import LoopState, MicroBatch
from model.train.spike_guard import SpikeGuard, StepNumbers, StepOutcome, name_rows, require_targets


class TrainingInterruptedError(Exception):
    """Training stopped on request, after a checkpoint; not a failure."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def train(
    run: TrainRun, *, directory: Path, distributed: DistributedContext, stop: StopRequest
) -> TrainingSummary | None:
    """Train within a process group; errors are those of ``Trainer`` and its ``fit``."""

    def attempt(run: TrainRun, directory: Path) -> TrainingSummary | None:
        return Trainer(run, directory=directory, distributed=distributed, stop=stop).fit()

    stop.listen()
    prepare_memory(distributed.device)
    with distributed.process_group():
        try:
            smoke_run(run, directory=directory, distributed=distributed, attempt=attempt)
        except TrainingInterruptedError as interruption:
            raise TrainingInterruptedError(step=0) from interruption
        return attempt(run, directory)


class Trainer:
    """One process of a training, which makes ``directory`` and checks ``stop`` after each step.

    Raises:
        ConfigError: the batch does not divide, or shards and tokenizer do not match.
        TrainingError: there are fewer tokens than one batch.
    """

    def __init__(
        self, run: TrainRun, *, directory: Path, distributed: DistributedContext, stop: StopRequest
    ) -> None:
        self.run, self.train, self.directory = run, run.train, directory
        self.distributed, self.stop = distributed, stop
        num_threads = share_threads(distributed)
        self.dtype = compute_dtype(run.train.precision, distributed.device)
        self.tokenizer = Tokenizer.load(run.path(run.tokenizer))
        self.reader = build_reader(run, self.tokenizer, distributed)
        self.model = build_model(run, self.tokenizer).to(distributed.device)
        self.objective = build_objective(
            run,
            self.model,
            validation=open_shards(run, run.validation, self.tokenizer),
            tokenizer=self.tokenizer,
        )
        self.compiling = self._compile()
        self.optimizer = build_optimizer(self.model, run.train, distributed)
        self.accumulator = Accumulator(
            self.objective.row_loss,
            distributed=distributed,
            dtype=self.dtype,
            rows=run.train.micro_batch_rows,
            rows_per_group=run.rows_per_group,
        )
        self.loop = LoopState(loader=self.reader.start())
        self.guard = SpikeGuard(
            spike_sigmas=run.train.spike_sigmas,
            max_skipped_steps=run.train.max_skipped_steps,
            device=distributed.device,
        )
        # On a GPU, reading the outcome of every step would wait for the device.
        self.reads_every_step = distributed.device.type == "cpu"
        self.checkpoints = Checkpoints(
            TrainModelOutputs(directory).checkpoints,
            derivation_key=run.derivation.key,
            keep=run.train.keep_checkpoints,
            flat_steps=flat_steps(run.train),
        )
        self.writer = CheckpointWriter(self.checkpoints)
        self.recorder = Recorder(
            run,
            directory=directory,
            distributed=distributed,
            environment=TrainingEnvironment(
                num_steps=self.num_steps,
                num_processes=distributed.size,
                device=device_name(distributed.device),
                precision=str(self.dtype).removeprefix("torch."),
                threads_per_process=num_threads,
                compiling=self.compiling,
                attention=backend_name(
                    distributed.device,
                    by_documents=run.train.attention == "document",
                    is_compiled=self.model.model.training_block is not None,
                ),
                peak_flops_per_second=peak_flops_per_second(device_name(distributed.device))
                or "unknown",
                num_params=self.model.num_params(),
                epochs=round(max(self.reader.num_epochs(self.num_steps)), 3),
            ),
        )

    def _compile(self) -> str:
        rows = self.reader.rows_per_step // self.distributed.size
        tokens = self.num_steps * rows * self.run.model.context_tokens
        return compile_model(
            self.model,
            self.train.compile,
            self.distributed.device,
            rows=whole_groups(
                min(rows, self.train.micro_batch_rows), rows_per_group=self.run.rows_per_group
            ),
            dtype=self.dtype,
            by_documents=self.train.attention == "document",
            planned_flops=tokens * self.model.architecture.flops_per_token(),
        )

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps of the whole training."""
        return self.train.required("steps")

    def fit(self) -> TrainingSummary | None:
        """Train to the horizon, write the model, and return the summary.

        Raises:
            TrainingInterruptedError: a signal asked to stop; a checkpoint was written.
            TrainingError: the loss is not finite, too many steps were skipped as spikes, a batch
                has no targets, or one row does not fit into memory.
            CheckpointError: the newest checkpoint belongs to another training.
            DiskSpaceError: a checkpoint does not fit on the disk.
        """
        with self.writer, manual_garbage_collection():
            self._start_or_resume()
            with contextlib.closing(self.reader.stream(self.loop.loader)) as batches:
                while self.loop.step < self.num_steps:
                    outcome = self.step(next(batches))
                    self.maybe_record(outcome)
                    is_stopping = self.distributed.any(self.stop.is_set)
                    self.maybe_checkpoint(is_stopping=is_stopping)
                    if is_stopping and self.loop.step < self.num_steps:
                        self._interrupt()
                    self.maybe_validate()
        return self._finish()

    # One step

    def step(self, batch: Batch) -> StepOutcome:
        """Take one optimizer step on a batch, without synchronising with a GPU."""
        step = self.loop.step + 1
        num_targets = self.distributed.sum(batch.num_targets)
        require_targets(num_targets, step=step, rows=batch.rows)
        num_terms = self.objective.num_terms(num_targets=num_targets, num_rows=len(batch.rows))
        means = self.accumulator.backward(batch, num_terms=num_terms)
        loss, *measured = means.unbind()
        norm = clip_gradients(self.model.parameters(), max_norm=self.train.gradient_clip_norm)
        factor = self.guard.update_factor(step, loss=loss, gradient_norm=norm)
        set_learning_rate(self.optimizer, learning_rate_factor(self.loop.step, self.train))
        rate = self.optimizer.learning_rate("matrix")
        self.optimizer.update(factor)
        self.optimizer.zero_grad(set_to_none=True)
        measures = dict(zip(self.objective.measures[1:], measured, strict=True))
        outcome = StepOutcome(step, batch.rows, rate, loss, norm, factor, measures)
        self.guard.note(outcome)
        if self.reads_every_step:
            self.read_outcomes()
        self.loop.step = step
        self.loop.tokens += batch_tokens_of(self.train)
        self.loop.targets += num_targets
        self.loop.loader = batch.state
        return outcome

    def read_outcomes(self) -> None:
        """Synchronise with the device and record the steps skipped since the last call."""
        for numbers in self.guard.read():
            if not numbers.is_applied:
                self.recorder.record("skipped", step=numbers.step, **_skipped(numbers))

    # After a step

    def maybe_record(self, outcome: StepOutcome) -> None:
        """Record training metrics every ``log_every_steps``, and at the first and last step."""
        step = outcome.step
        if step % self.train.log_every_steps and step not in (1, self.num_steps):
            return
        self.read_outcomes()
        self.recorder.record(
            "train",
            step=step,
            **{
                "train/loss": outcome.loss.item(),
                **{f"train/{name}": value.item() for name, value in outcome.measures.items()},
                "train/learning_rate": outcome.learning_rate,
                "train/gradient_norm": outcome.gradient_norm.item(),
                "train/tokens": self.loop.tokens,
                "train/skipped_steps": self.guard.num_skipped,
                **self.recorder.lap(self.loop, model=self.model, dtype=self.dtype),
            },
        )

    def maybe_checkpoint(self, *, is_stopping: bool) -> None:
        """Save every ``checkpoint_every_steps``, where decay begins, at the end, before stopping.

        Files are written while training continues; the last write blocks.
        """
        step = self.loop.step
        self._record_written(self.writer.finished())
        is_due = step % self.train.checkpoint_every_steps == 0 or step in (
            self.checkpoints.flat_steps,
            self.num_steps,
        )
        if not (is_due or is_stopping):
            return
        self.read_outcomes()
        self.loop.guard = self.guard.state()
        if self.distributed.is_main:
            self._record_written(self.writer.wait())
            self.writer.begin(
                self.model, self.optimizer, self.loop, num_processes=self.distributed.size
            )
            if is_stopping or step == self.num_steps:
                self._record_written(self.writer.wait())
        gc.collect()
        self.recorder.speed.restart(self.loop.tokens)

    def _record_written(self, steps: Iterable[int]) -> None:
        for step in steps:
            path = self.checkpoints.path(step).relative_to(self.directory)
            self.recorder.record("checkpoint", step=step, path=path.as_posix())

    def maybe_validate(self) -> None:
        """Measure the validation loss every ``validate_every_steps``, and at the last step."""
        step = self.loop.step
        if step % self.train.validate_every_steps and step != self.num_steps:
            return
        with self.accumulator.autocast():
            share = self.objective.evaluate(
                max_tokens=self.train.validation_tokens,
                batch_rows=self.accumulator.rows,
                rank=self.distributed.rank,
                world_size=self.distributed.size,
            )
        metrics = self.objective.metrics(self.distributed.sum_tensor(share))
        loss, best = metrics["validation/loss"], self.loop.best_validation_loss
        self.loop.best_validation_loss = min(loss, loss if best is None else best)
        self.recorder.record("validation", step=step, **metrics)
        if self.distributed.is_main:
            self.writer.mark_validated(step, loss=loss)
        self.recorder.write_sample(self.model, self.tokenizer, step=step)
        self.recorder.speed.restart(self.loop.tokens)

    # Start and end

    def _start_or_resume(self) -> None:
        newest = self._newest_checkpoint() if self.distributed.is_main else None
        step = self.distributed.from_main(newest)
        if step:
            self.loop = self.checkpoints.load(step, self.model, self.optimizer)
            self.guard.restore(self.loop.guard)
        else:
            self._warn_of_repetition()
        self._fit_micro_batch()
        kind = "resume" if step else "start"
        self.recorder.record(kind, step=step, **self.recorder.environment.plain())
        self.recorder.speed.restart(self.loop.tokens)
        if step:  # the checkpoint was written before the validation of its step
            self.maybe_validate()

    def _newest_checkpoint(self) -> int | None:
        newest = self.checkpoints.newest()
        if newest or self.train.extend == "never":
            return newest
        source = take_over(self.run, self.checkpoints, environment=self.recorder.environment)
        if source is None:
            return None
        origin = source.manifest.artifact.relative_path
        message = (
            f"training continues from step {source.step} of {origin}, which differs in its horizon "
            "alone"
        )
        self.recorder.record("extended", step=source.step, artifact=origin, message=message)
        return source.step

    def _warn_of_repetition(self) -> None:
        epochs = self.recorder.environment.epochs
        if epochs > 1:
            message = f"{self.num_steps} steps read the training rows {epochs:.2f} times"
            self.recorder.record("repetition", step=0, epochs=epochs, message=message)

    def _fit_micro_batch(self) -> None:
        """Find the micro-batch that fits into memory, from the one of an earlier attempt if any."""
        asked, before = self.train.micro_batch_rows, self.loop.micro_batch
        own = self.reader.rows_per_step // self.distributed.size
        first = before.used if before and before.asked == asked else min(asked, own)
        self.accumulator.rows = first
        self.accumulator.fit_into_memory(self.reader.read(self.loop.loader), self.optimizer)
        used = self.accumulator.rows
        self.loop.micro_batch = MicroBatch(asked=asked, used=used)
        if used < whole_groups(first, rows_per_group=self.run.rows_per_group):
            message = (
                f"micro-batches of {first} rows do not fit into memory: {used} rows at a time; "
                "the global batch is unchanged"
            )
            self.recorder.record("micro_batch", step=self.loop.step, rows=used, message=message)

    def _interrupt(self) -> None:
        self.recorder.record("end", step=self.loop.step, state="interrupted")
        self.recorder.close()
        raise TrainingInterruptedError(self.loop.step)

    def _finish(self) -> TrainingSummary | None:
        if self.distributed.is_main:
            save_model(self.model, TrainModelOutputs(self.directory).model)
        self.recorder.record("end", step=self.loop.step, state="complete")
        self.recorder.close()
        return self.recorder.summary(self.loop, self.checkpoints)


def _skipped(numbers: StepNumbers) -> dict[str, Any]:
    message = (
        f"step {numbers.step} was skipped for a spike: loss {numbers.loss:.5g}, gradient norm "
        f"{numbers.gradient_norm:.5g}, {name_rows(numbers.rows)}"
    )
    return {"loss": numbers.loss, "gradient_norm": numbers.gradient_norm, "message": message}
