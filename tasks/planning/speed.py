"""How many tokens a second a training takes: measured by an earlier run here, or stated."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from model.config.network import Architecture
from model.config.outputs import TrainModelOutputs
from model.config.train import TrainConfig
from model.core.processes import num_cores
from model.core.store import ArtifactStore
from tasks.engine.launchers import num_gpus, num_processes
from tasks.planning.machine import Machine
from tasks.stages.measure_speed import MeasureSpeed, MeasureSpeedOutputs, speed_manifest
from tasks.stages.train_model import TrainModel

STATED_GPU_FLOPS_PER_SECOND = 400e12  # an H200 at about 40 % of its bf16 peak
STATED_CPU_FLOPS_PER_SECOND = 50e9  # per core with AVX-512, fp32


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
