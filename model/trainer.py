"""The training loop: batch, step, record, maybe save, maybe validate, stop?

Built once per process from a ``TrainRun``; ``fit`` runs it to its horizon, from the newest
checkpoint if there is one. What a step computes does not depend on how it is spread: a global
batch has the same rows whatever the number of processes and the micro-batch, and its loss is the
mean over the targets of all of it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.batches import Batch
from model.checkpoint import Checkpoints, LoopState
from model.distributed import StopRequest, World
from model.evaluate import Evaluation, evaluate
from model.gpt import GPT, next_token_loss
from model.guards import Guard, StepOutcome, require_targets
from model.hardware import compute_dtype, device_name, share_threads
from model.optim import build_optimizer, clip_gradients, learning_rate_factor, set_learning_rate
from model.recorder import Recorder, Summary
from model.run_config import TrainRun
from model.tokenizer import Tokenizer
from model.tracker import EVENTS_NAME
from model.train_config import batch_tokens_of
from model.training_inputs import build_model, build_reader, open_shards
from model.weights import save_model

MODEL_DIRECTORY = "model"
CHECKPOINTS_DIRECTORY = "checkpoints"
TRAINER_LOGS = {EVENTS_NAME, CHECKPOINTS_DIRECTORY}  # written beside the model, and not content


class TrainingInterruptedError(Exception):
    """Training was asked to stop and did, after a checkpoint; it is no failure."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


class RowLoss(nn.Module):
    """The loss as one module, so that whatever part of the model it uses is synchronised."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Int[Tensor, "B T1"], mask: Bool[Tensor, "B T1"]) -> Float[Tensor, ""]:
        """Return the summed negative log-likelihood of the marked tokens."""
        return next_token_loss(self.model, ids, mask)


def train(run: TrainRun, *, directory: Path, world: World, stop: StopRequest) -> Summary:
    """Connect this process with the others, train, and take the connection down.

    Args and errors are those of ``Trainer`` and its ``fit``.
    """
    stop.listen()
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
        num_threads = share_threads(world)
        self.dtype = compute_dtype(run.train.precision, world.device)
        self.tokenizer = Tokenizer.load(run.path(run.tokenizer))
        self.validation = open_shards(run, run.validation, self.tokenizer)
        self.reader = build_reader(run, self.tokenizer, world)
        self.model = build_model(run, self.tokenizer).to(world.device)
        self.optimizer = build_optimizer(self.model, run.train, world)
        self.row_loss = world.wrap(RowLoss(self.model))
        self.loop = LoopState(loader=self.reader.start())
        self.guard = Guard()
        self.checkpoints = Checkpoints(
            directory / CHECKPOINTS_DIRECTORY,
            derivation_key=run.derivation.key,
            keep=run.train.keep_checkpoints,
        )
        self.recorder = Recorder(
            run,
            directory=directory,
            world=world,
            circumstances={
                "num_steps": self.num_steps,
                "num_processes": world.size,
                "device": device_name(world.device),
                "precision": str(self.dtype).removeprefix("torch."),
                "threads_per_process": num_threads,
                "num_params": self.model.num_params(),
            },
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
        require_targets(num_targets, step=self.loop.step + 1, rows=batch.rows)
        factor = learning_rate_factor(self.loop.step, self.train)
        loss = self._backward(batch, num_targets=num_targets)
        norm = clip_gradients(self.model.parameters(), max_norm=self.train.gradient_clip_norm)
        set_learning_rate(self.optimizer, factor)
        rate = self.optimizer.param_groups[0]["lr"]  # of the block matrices
        outcome = StepOutcome(self.loop.step + 1, batch.rows, rate, loss, norm)
        self.guard.note(outcome)
        if self.world.device.type == "cpu":
            self.guard.require_finite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loop.step += 1
        self.loop.tokens += batch_tokens_of(self.train)
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

    # What may follow a step

    def maybe_record(self, outcome: StepOutcome) -> None:
        """Record the numbers of a step, every so many steps and at the first and last."""
        step = outcome.step
        if step % self.train.log_every_steps and step not in (1, self.num_steps):
            return
        self.guard.require_finite()
        self.recorder.record(
            "train",
            step=step,
            **{
                "train/loss": outcome.loss.item(),
                "train/learning_rate": outcome.learning_rate,
                "train/gradient_norm": outcome.gradient_norm.item(),
                "train/tokens": self.loop.tokens,
                **self.recorder.lap(self.loop, model=self.model, dtype=self.dtype),
            },
        )

    def maybe_checkpoint(self, *, is_stopping: bool) -> None:
        """Save, every so many steps, at the last, and before stopping."""
        step = self.loop.step
        is_due = step % self.train.checkpoint_every_steps == 0 or step == self.num_steps
        if not (is_due or is_stopping):
            return
        self.guard.require_finite()
        if self.world.is_main:
            path = self.checkpoints.save(
                self.model, self.optimizer, self.loop, num_processes=self.world.size
            )
            relative = path.relative_to(self.directory).as_posix()
            self.recorder.record("checkpoint", step=step, path=relative)
        self.recorder.speed.restart(self.loop.tokens)

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
        self.recorder.record("validation", step=step, **metrics)
        self.recorder.write_sample(self.model, self.tokenizer, step=step)
        self.recorder.speed.restart(self.loop.tokens)

    def _sum_evaluation(self, share: Evaluation) -> Evaluation:
        sums = torch.tensor(
            [share.nll_nats, share.num_targets, share.num_bytes], dtype=torch.float64
        )
        nll_nats, num_targets, num_bytes = self.world.sum_tensor(sums).tolist()
        return Evaluation(nll_nats, int(num_targets), int(num_bytes))

    # Beginning and end

    def _start_or_resume(self) -> None:
        newest = self.checkpoints.newest() if self.world.is_main else None
        step = self.world.from_main(newest)
        if step:
            self.loop = self.checkpoints.load(step, self.model, self.optimizer)
        else:
            self.reader.warn_of_repetition(self.num_steps)
        kind = "resume" if step else "start"
        self.recorder.record(kind, step=step, **self.recorder.circumstances)
        self.recorder.speed.restart(self.loop.tokens)
        if step:  # the checkpoint was written before the validation of its step
            self.maybe_validate()

    def _interrupt(self) -> None:
        self.recorder.record("end", step=self.loop.step, state="interrupted")
        self.recorder.close()
        raise TrainingInterruptedError(self.loop.step)

    def _finish(self) -> Summary:
        if self.world.is_main:
            save_model(self.model, self.directory / MODEL_DIRECTORY)
        self.recorder.record("end", step=self.loop.step, state="complete")
        self.recorder.close()
        return self.recorder.summary(self.loop, self.checkpoints)
