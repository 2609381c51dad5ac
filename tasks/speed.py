"""How many tokens a second a training takes: measured by an earlier run here, or stated."""

from __future__ import annotations

import socket

from model.config import Architecture
from model.store import ArtifactStore
from model.train_config import TrainConfig
from tasks.launchers import num_gpus, num_processes
from tasks.machine import Machine
from tasks.measure_speed import MeasureSpeed, known_speed
from tasks.pipeline import num_cores
from tasks.train_model import TrainModel

STATED_GPU_FLOPS_PER_SECOND = 400e12  # an H200 at about 40 % of its bf16 peak
STATED_CPU_FLOPS_PER_SECOND = 50e9  # per core with AVX-512, fp32


def tokens_per_second(
    config: TrainModel, *, vocab_size: int, store: ArtifactStore
) -> tuple[float, str]:
    """Return a training's speed and where it is known from: a run, a measurement, or nowhere."""
    for rate, source in (_of_earlier_run(config, store), _of_trial(config, vocab_size, store)):
        if rate:
            return rate, source
    return stated_tokens_per_second(config.train, config.model.architecture(vocab_size))


def stated_tokens_per_second(train: TrainConfig, network: Architecture) -> tuple[float, str]:
    """Return a speed nobody measured here, and its source."""
    if num_gpus():
        speed = STATED_GPU_FLOPS_PER_SECOND * num_processes(train)
        source = "stated for an H200 at 40 % of its peak"
    else:
        speed = STATED_CPU_FLOPS_PER_SECOND * num_cores()
        source = "stated for CPU cores with AVX-512"
    return speed / network.flops_per_token(), source


def _of_earlier_run(config: TrainModel, store: ArtifactStore) -> tuple[float, str]:
    host = f"@{socket.gethostname()}"
    semantic = config.model.semantic()
    for manifest in sorted(
        store.manifests("train_model"), key=lambda item: item.origin.created_at, reverse=True
    ):
        rate = manifest.facts.get("tokens_per_second")
        same = manifest.derivation.config.get("model") == semantic
        if rate and same and manifest.origin.created_by.endswith(host):
            return float(rate), f"measured here on {manifest.origin.created_at[:10]}"
    return 0.0, ""


def _of_trial(config: TrainModel, vocab_size: int, store: ArtifactStore) -> tuple[float, str]:
    trial = MeasureSpeed(
        model=config.model,
        train=config.train,
        vocab_size=vocab_size,
        machine=Machine.here(config.train),
    )
    speed = known_speed(trial, store)
    return (speed.tokens_per_second, "measured here by measure_speed") if speed else (0.0, "")
