"""Training metrics, sample texts, and the summary at the end.

Rank 0 records; the same calls do nothing in the other processes.
Called by ``model.train.trainer``; ``model.train.events`` owns the file and the copy in MLflow.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.config.outputs import (
    ExtendedFrom,
    KeptCheckpoint,
    TrainingEnvironment,
    TrainModelCounts,
    TrainModelFacts,
    TrainModelOutputs,
)
from model.config.runs import TrainRun
from model.inference.generate import generate_batch, prompt_ids
from model.inference.sampling import Sampling
from model.network.gpt import GPT
from model.runtime.distributed import DistributedContext
from model.runtime.hardware import ThroughputMeter, device_name, peak_flops_per_second
from model.text.tokenizer import Tokenizer
from model.train.checkpoint import Checkpoints
from model.train.events import Event, EventKind, Tracker, metric_points, read_events
from model.train.snapshot import LoopState

logger = logging.getLogger(__name__)

SAMPLE_TOKENS = 64
SAMPLE_TEMPERATURE = 0.8
SAMPLE_TOP_K = 50


class TrainingSummary(NamedTuple):
    """Numbers of a finished training, for its manifest."""

    counts: TrainModelCounts
    facts: TrainModelFacts


class Recorder:
    """Records the events of one training in its ``directory``."""

    def __init__(
        self,
        run: TrainRun,
        *,
        directory: Path,
        distributed: DistributedContext,
        environment: TrainingEnvironment,
    ) -> None:
        self.run, self.distributed = run, distributed
        self.path = TrainModelOutputs(directory).events
        self.environment = environment
        self.speed = ThroughputMeter()
        self._tracker = Tracker(self.path, tracking=run.tracking) if distributed.is_main else None

    def record(self, kind: EventKind, *, step: int, **values: Any) -> None:
        """Append an event, forward its metrics, and log it."""
        if self._tracker is None:
            return
        self._tracker.record(kind, step=step, **values)
        if "message" in values:
            logger.warning("step %d of %d: %s", step, self.run.train.steps, values["message"])
            return
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        shown = ", ".join(f"{key} {value:.5g}" for key, value in numbers.items()) or values
        logger.info("step %d of %d: %s: %s", step, self.run.train.steps, kind, shown)

    def lap(self, loop: LoopState, *, model: GPT, dtype: torch.dtype) -> dict[str, float]:
        """Return the throughput since the last record, with MFU where the peak is known."""
        tokens_per_second = self.speed.lap(loop.tokens)
        metrics = {"perf/tokens_per_second": tokens_per_second}
        peak = peak_flops_per_second(device_name(self.distributed.device))
        if peak is not None and dtype == torch.bfloat16:
            used = tokens_per_second * model.architecture.flops_per_token()
            metrics["perf/mfu"] = used / (peak * self.distributed.size)
        return metrics

    def write_sample(self, model: GPT, tokenizer: Tokenizer, *, step: int) -> None:
        """Generate a sample text for each of the run's prompts, in one batch."""
        prompts = self.run.sample_prompts
        if not (self.distributed.is_main and prompts):
            return
        sampling = Sampling(
            temperature=SAMPLE_TEMPERATURE,
            top_k=SAMPLE_TOP_K,
            top_p=1,
            repetition_penalty=1,
            seed=self.run.train.seed,
        )
        written = generate_batch(
            model,
            [prompt_ids(prompt, tokenizer, style=self.run.style) for prompt in prompts],
            num_tokens=SAMPLE_TOKENS,
            sampling=sampling,
            stop_ids=tokenizer.stop_ids,
        )
        samples = [
            {"prompt": prompt, "text": tokenizer.decode(ids)}
            for prompt, ids in zip(prompts, written, strict=True)
        ]
        self.record("sample", step=step, samples=samples)

    def summary(self, loop: LoopState, checkpoints: Checkpoints) -> TrainingSummary | None:
        """Return the summary of the finished training, from its events; on rank 0."""
        if not self.distributed.is_main:
            return None
        events = read_events(self.path)
        metrics = _metrics(events)
        by_step = {
            event["step"]: _metrics([event]) for event in events if event["kind"] == "validation"
        }
        best, pre_decay = checkpoints.best(), checkpoints.pre_decay()
        kept = [
            KeptCheckpoint(
                step=step,
                path=f"{checkpoints.directory.name}/{checkpoints.path(step).name}",
                is_best=step == best,
                is_trunk=step == pre_decay,
                metrics=by_step.get(step, {}),
            )
            for step in checkpoints.steps()
        ]
        speeds = [event["perf/tokens_per_second"] for event in events if event["kind"] == "train"]
        found = {}
        if "validation/bits_per_byte" in metrics:  # preference training has none
            found["validation_bits_per_byte"] = metrics["validation/bits_per_byte"]
        for event in events:
            if event["kind"] == "extended":
                found["extended_from"] = ExtendedFrom(
                    artifact=event["artifact"], step=event["step"]
                )
        facts = TrainModelFacts(
            validation_loss=metrics["validation/loss"],
            best_validation_loss=loop.best_validation_loss,
            checkpoints=tuple(kept),
            tokens_per_second=statistics.median(speeds),
            metrics=metrics,
            **found,
            **self.environment.plain(),
        )
        counts = TrainModelCounts(steps=loop.step, tokens=loop.tokens, targets=loop.targets)
        return TrainingSummary(counts, facts)

    def close(self) -> None:
        """Flush the metrics to MLflow."""
        if self._tracker is not None:
            self._tracker.close()


def _metrics(events: Iterable[Event]) -> dict[str, float]:
    return {point.key: point.value for event in events for point in metric_points(event)}
