"""Estimates of the trainings of a plan: tokens, FLOPs, speed, time, cost and predicted score.

Made before a run; afterwards ``tasks.reporting.outcome`` sets what came out beside it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.config.network import Architecture
from model.config.outputs import TrainModelOutputs
from model.config.train import TrainConfig, batch_tokens_of
from model.core.artifact import MANIFEST_NAME, Artifact, Manifest
from model.core.processes import num_cores
from model.core.store import ArtifactStore
from model.eval.scaling_laws import Prediction, ScalingFit, stated_prediction
from tasks.engine.launchers import num_gpus, num_processes
from tasks.engine.pipeline import Step
from tasks.stages.fit_scaling import FitScalingOutputs
from tasks.stages.measure_speed import Machine, MeasureSpeed, MeasureSpeedOutputs, speed_manifest
from tasks.stages.tokenise import TokeniseOutputs
from tasks.stages.train_model import TrainModel, count_steps
from tasks.stages.train_tokenizer import TrainTokenizerOutputs

TRAINING_BYTES_PER_PARAM = 16  # fp32 weights, gradients and two AdamW moments
CHECKPOINT_BYTES_PER_PARAM = 12  # weights and moments
WEIGHT_BYTES = 4
WEIGHT_COPIES = 3  # trained, exported, and exported as GGUF
STATED_BYTES_PER_TOKEN = 4.4  # FineWeb-like text in a vocabulary of 32,768
NO_PREDICTION = (
    "bits per byte: no prediction; published constants say nothing this far below the runs they "
    "come from, and no ladder was trained on these validation rows (flow sweep)"
)
STATED_GPU_FLOPS_PER_SECOND = 400e12  # an H200 at about 40 % of its bf16 peak
STATED_CPU_FLOPS_PER_SECOND = 50e9  # per core with AVX-512, fp32


@dataclass(frozen=True)
class TrainingEstimate:
    """What one training of a plan amounts to."""

    artifact: Artifact
    num_tokens: int
    num_params: int
    flops: float
    tokens_per_second: float
    rate_source: str
    memory_bytes: int
    dollars_per_hour: float
    prediction: Prediction | None
    is_first: bool = (
        True  # else of a model that was trained before: nothing here predicts its score
    )

    @property
    def seconds(self) -> float:
        """Optimizer steps alone: validation and checkpoints come on top."""
        return self.num_tokens / self.tokens_per_second

    @property
    def dollars(self) -> float:
        """Price of the time; 0 where the machine has none."""
        return self.dollars_per_hour * self.seconds / 3600


def estimate_trainings(
    steps: Sequence[Step], store: ArtifactStore, *, vocab_size: int, dollars_per_hour: float
) -> tuple[TrainingEstimate, ...]:
    """Return an estimate for each training that a walk has yet to run, if its steps are known.

    Args:
        vocab_size: of a tokenizer that is yet to be trained.
    """
    return tuple(
        _estimate(
            step,
            step.config,
            store,
            num_steps=num_steps,
            vocab_size=_vocab_size(step, store) or vocab_size,
            bytes_per_token=_bytes_per_token(steps),
            dollars_per_hour=dollars_per_hour,
        )
        for step in steps
        if isinstance(step.config, TrainModel) and step.status.state != "complete"
        if (num_steps := count_steps(step.config, step.derivation, store))
    )


def _vocab_size(step: Step, store: ArtifactStore) -> int | None:
    """Return the entries of the tokenizer that a training uses, if it is there."""
    (tokenizer,) = step.derivation.inputs["tokenizer"]
    if not (store.path(tokenizer) / MANIFEST_NAME).exists():
        return None
    return TrainTokenizerOutputs.of(store, tokenizer).facts.vocab_size


def training_disk_bytes(steps: Sequence[Step], store: ArtifactStore, *, vocab_size: int) -> int:
    """Return what all trainings leave that a walk has yet to run, however long they are.

    Args:
        vocab_size: of a tokenizer that is yet to be trained.
    """
    num_bytes = 0
    for step in steps:
        if isinstance(step.config, TrainModel) and step.status.state != "complete":
            network = step.config.model.architecture(_vocab_size(step, store) or vocab_size)
            copies = step.config.train.keep_checkpoints + 1
            per_param = copies * CHECKPOINT_BYTES_PER_PARAM + WEIGHT_COPIES * WEIGHT_BYTES
            num_bytes += per_param * network.num_params()
    return num_bytes


def uncounted_trainings(steps: Sequence[Step], store: ArtifactStore) -> list[str]:
    """Return a line for each training whose epochs are of rows that are not written yet."""
    return [
        f"training {step.artifact.name}: {step.config.train.epochs:g} epochs of rows that are "
        "counted when they are written"
        for step in steps
        if isinstance(step.config, TrainModel) and step.status.state != "complete"
        if count_steps(step.config, step.derivation, store) is None
    ]


def _estimate(
    step: Step,
    config: TrainModel,
    store: ArtifactStore,
    *,
    num_steps: int,
    vocab_size: int,
    bytes_per_token: float,
    dollars_per_hour: float,
) -> TrainingEstimate:
    network = config.model.architecture(vocab_size)
    num_params = network.num_params()
    num_tokens = num_steps * batch_tokens_of(config.train)
    flops = float(num_tokens) * network.flops_per_token()
    rate, source = tokens_per_second(config, vocab_size=vocab_size, store=store)
    is_first = "init_from" not in step.derivation.inputs
    return TrainingEstimate(
        artifact=step.artifact,
        num_tokens=num_tokens,
        num_params=num_params,
        flops=flops,
        tokens_per_second=rate,
        rate_source=source,
        memory_bytes=TRAINING_BYTES_PER_PARAM * num_params,
        dollars_per_hour=dollars_per_hour,
        is_first=is_first,
        prediction=_fitted_prediction(step, store, flops=flops)
        or stated_prediction(
            num_params=num_params,
            num_tokens=num_tokens,
            vocab_size=vocab_size,
            bytes_per_token=bytes_per_token,
        )
        if is_first
        else None,
    )


def _fitted_prediction(step: Step, store: ArtifactStore, *, flops: float) -> Prediction | None:
    fitted = newest_fit(step.derivation.inputs["validation"], store)
    return fitted and fitted[1].predict(flops, source=f"fitted, {fitted[0].name}")


def newest_fit(
    validation: Sequence[Artifact], store: ArtifactStore
) -> tuple[Artifact, ScalingFit] | None:
    """Return the newest ladder with a curve that was scored on the same validation rows."""
    keys = [item.key for item in validation]

    def is_comparable(manifest: Manifest) -> bool:
        return [item.key for item in manifest.derivation.inputs["validation"]] == keys

    fits = filter(is_comparable, FitScalingOutputs.manifests(store))
    for manifest in sorted(fits, key=lambda item: item.origin.created_at, reverse=True):
        fit = FitScalingOutputs.of(store, manifest.artifact).read_fit()
        if fit.curve:
            return manifest.artifact, fit
    return None


def _bytes_per_token(steps: Sequence[Step]) -> float:
    """Return bytes of text per token of the validation documents, where they are encoded."""
    for step in steps:
        manifest = step.status.manifest
        is_validation = TokeniseOutputs.made(step.artifact) and step.artifact.name == "validation"
        if is_validation and manifest:
            counts = TokeniseOutputs.counts_of(manifest)
            return counts.num_bytes / counts.num_tokens
    return STATED_BYTES_PER_TOKEN


def tokens_per_second(
    config: TrainModel, *, vocab_size: int, store: ArtifactStore
) -> tuple[float, str]:
    """Return a training's speed and its source: the newest of what was measured here."""
    trial = _of_trial(config, vocab_size, store)
    found = [*_of_earlier_runs(config, store), *([trial] if trial else [])]
    if not found:
        return stated_tokens_per_second(config.train, config.model.architecture(vocab_size))
    created_at, speed = max(found)
    return speed, f"measured here on {created_at[:10]}"


def stated_tokens_per_second(train: TrainConfig, network: Architecture) -> tuple[float, str]:
    """Return a speed nobody measured here, and its source."""
    if num_gpus():
        speed = STATED_GPU_FLOPS_PER_SECOND * num_processes(train)
        source = "stated for an H200 at 40 % of its peak"
    else:
        speed = STATED_CPU_FLOPS_PER_SECOND * num_cores()
        source = "stated for CPU cores with AVX-512"
    return speed / network.flops_per_token(), source


def _of_earlier_runs(config: TrainModel, store: ArtifactStore) -> Iterator[tuple[str, float]]:
    """Yield times and speeds of trainings of the same model on this host."""
    host = f"@{socket.gethostname()}"
    semantic = config.model.semantic()
    for manifest in TrainModelOutputs.manifests(store):
        made = manifest.derivation.config
        is_same = made.get("model") == semantic and ("dpo" in made) == (config.dpo is not None)
        is_here = manifest.origin.created_by.endswith(host)
        if is_same and is_here:
            speed = TrainModelOutputs.facts_of(manifest).tokens_per_second
            yield manifest.origin.created_at, speed


def _of_trial(
    config: TrainModel, vocab_size: int, store: ArtifactStore
) -> tuple[str, float] | None:
    """Return time and speed of a measurement before a training."""
    trial = MeasureSpeed(
        model=config.model,
        train=config.train,
        vocab_size=vocab_size,
        machine=Machine.here(config.train),
    )
    manifest = speed_manifest(trial, store)
    if manifest is None:
        return None
    speed = MeasureSpeedOutputs.facts_of(manifest).tokens_per_second
    return manifest.origin.created_at, speed
