"""Extending the horizon: a training continues from a finished one's pre-decay checkpoint.

Until decay begins, the learning rate does not depend on the horizon (the stable phase of a WSD
schedule). A checkpoint from that phase is bit for bit what a training reaches that differs in
``train.steps`` alone. A finished artifact keeps its last pre-decay checkpoint; a new training of
its family copies it and continues.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config.outputs import TrainingEnvironment, TrainModelOutputs
from model.config.runs import TrainRun
from model.config.train import TrainConfig
from model.core.artifact import Derivation, Manifest
from model.core.errors import ArtifactError, CheckpointError
from model.core.files import write_synced
from model.core.store import ArtifactStore
from model.optim.schedule import flat_steps
from model.train.checkpoint import Checkpoints
from model.train.events import read_events

logger = logging.getLogger(__name__)

NOT_TAKEN_OVER = ("checkpoint", "end")  # events that are not copied


@dataclass(frozen=True)
class PreDecayCheckpoint:
    """A checkpoint of the stable phase of a finished training."""

    manifest: Manifest
    step: int
    checkpoint: Path


def find_pre_decay_checkpoints(
    run: TrainRun, *, environment: TrainingEnvironment
) -> Iterator[PreDecayCheckpoint]:
    """Yield the checkpoints a training may continue from, the longest first.

    Args:
        environment: of this training; other precision or compilation gives other bits.
    """
    store = ArtifactStore(Path(run.data_root))
    found = [
        PreDecayCheckpoint(manifest, kept.step, store.path(manifest.artifact) / kept.path)
        for manifest in TrainModelOutputs.manifests(store)
        if _family(manifest.derivation) == _family(run.derivation)
        for facts in [TrainModelOutputs.facts_of(manifest)]
        if _arithmetic(facts) == _arithmetic(environment)
        for kept in facts.checkpoints
        if kept.step <= _shared_steps(manifest, run.train)
    ]
    yield from sorted(found, key=lambda item: -item.step)


def _arithmetic(environment: TrainingEnvironment) -> tuple[str, str]:
    """Return what decides the last bits of a training, apart from the number of ranks."""
    is_eager = environment.compiling.startswith("eager")
    return environment.precision, "eager" if is_eager else "compiled"


def _family(derivation: Derivation) -> dict[str, Any]:
    """Return everything that identifies a training except its horizon."""
    train = derivation.config.get("train", {})
    kept = {name: value for name, value in train.items() if name not in TrainConfig.HORIZONS}
    return {
        "name": derivation.name,
        "version": derivation.version,
        "config": derivation.config | {"train": kept},
        "inputs": {role: [item.key for item in items] for role, items in derivation.inputs.items()},
        "algorithms": derivation.algorithms,
    }


def _shared_steps(manifest: Manifest, train: TrainConfig) -> int:
    """Return how many first steps two trainings of a family share."""
    done = TrainModelOutputs.counts_of(manifest).steps
    steps = manifest.derivation.config["train"]["steps"] or done
    return min(flat_steps(train.model_copy(update={"steps": steps})), flat_steps(train))


def take_over(
    run: TrainRun, checkpoints: Checkpoints, *, environment: TrainingEnvironment
) -> PreDecayCheckpoint | None:
    """Copy the longest pre-decay checkpoint of its family to a training that has no checkpoint.

    Events come first and the checkpoint last, so that a kill in between leaves a fresh training.
    """
    for source in find_pre_decay_checkpoints(run, environment=environment):
        try:
            events = "".join(
                json.dumps(event) + "\n"
                for event in read_events(TrainModelOutputs(source.checkpoint.parents[1]).events)
                if event["step"] <= source.step and event["kind"] not in NOT_TAKEN_OVER
            )
            checkpoints.directory.mkdir(parents=True, exist_ok=True)
            write_synced(TrainModelOutputs(checkpoints.directory.parent).events, events.encode())
            checkpoints.take_over(source.checkpoint, step=source.step)
        except (ArtifactError, CheckpointError, OSError) as error:
            logger.warning("cannot continue from %s: %s", source.checkpoint, error)
            continue
        return source
    return None
