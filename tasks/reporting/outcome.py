"""Predicted against actual score, time and cost of a training."""

from __future__ import annotations

import logging

from model.config.outputs import TrainModelFacts, TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.store import ArtifactStore
from tasks.planning.estimate import TrainingEstimate
from tasks.planning.plan import duration
from tasks.tracking.run import TrackedPipeline

logger = logging.getLogger(__name__)


def report_outcome(
    tracked: TrackedPipeline,
    trained: Artifact,
    *,
    expected: TrainingEstimate | None,
    store: ArtifactStore,
    training_run_id: str | None = None,
) -> None:
    """Log predicted against actual, and keep the predictions among the metrics of the run.

    Args:
        expected: before the run; ``None``, for a cached training, reports nothing.
        training_run_id: MLflow run of the training; ``None`` means the pipeline's.
    """
    if expected is None:
        return
    manifest = store.read_manifest(trained)
    logger.info("%s", outcome_text(manifest, expected))
    tracked.record_metrics(
        predicted_metrics(manifest, expected),
        step=TrainModelOutputs.counts_of(manifest).steps,
        run_id=training_run_id,
    )


def predicted_metrics(manifest: Manifest, expected: TrainingEstimate) -> dict[str, float]:
    """Return the predictions, under keys like those of the measured values, and the cost."""
    found = {"predicted/tokens_per_second": expected.tokens_per_second}
    if expected.prediction:
        found["predicted/bits_per_byte"] = expected.prediction.bits_per_byte
    if expected.dollars_per_hour:
        found["cost/dollars"] = expected.dollars_per_hour * _seconds(manifest) / 3600
    return found


def outcome_text(manifest: Manifest, expected: TrainingEstimate) -> str:
    """Return score, time and cost of a training, each beside what was predicted.

    The time is that of optimizer steps, at the median speed, as in the prediction.
    """
    seconds = _seconds(manifest)
    facts = TrainModelOutputs.facts_of(manifest)
    speed = facts.tokens_per_second
    lines = [
        f"training {manifest.artifact.name}, predicted against actual:",
        f"  {_score_text(facts, expected)}",
        f"  time: predicted {duration(expected.seconds)} at "
        f"{expected.tokens_per_second:,.0f} tokens/s, actual {duration(seconds)} at {speed:,.0f} "
        "tokens/s",
    ]
    if expected.dollars_per_hour:
        actual = expected.dollars_per_hour * seconds / 3600
        lines.append(f"  cost: predicted ${expected.dollars:,.2f}, actual ${actual:,.2f}")
    return "\n".join(lines)


def _score_text(facts: TrainModelFacts, expected: TrainingEstimate) -> str:
    bits = facts.validation_bits_per_byte
    if bits is None:  # preference training
        accuracy = facts.metrics["validation/preference_accuracy"]
        return f"preference accuracy: not predicted, actual {accuracy:.1%}"
    if not expected.prediction:
        return f"bits per byte: not predicted, actual {bits:.4f}"
    value = expected.prediction.bits_per_byte
    return (
        f"bits per byte: predicted {value:.4f} ({expected.prediction.kind}), actual {bits:.4f} "
        f"({bits / value - 1:+.1%})"
    )


def _seconds(manifest: Manifest) -> float:
    tokens = TrainModelOutputs.counts_of(manifest).tokens
    return tokens / TrainModelOutputs.facts_of(manifest).tokens_per_second
