"""Longer without starting over: training that goes on from a finished one with another horizon.

Until decay begins, the learning rate does not depend on the horizon. So a checkpoint from that
part, the trunk, is bit for bit what a training would have reached that differs in ``train.steps``
alone. A finished artifact keeps its trunk; a new training of its family copies it and goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config.train import TrainConfig
from model.config.train_run import TrainRun
from model.core.artifact import Derivation, Manifest
from model.core.errors import ArtifactError, CheckpointError
from model.core.store import ArtifactStore, write_synced
from model.optim.schedule import flat_steps
from model.train.checkpoint import Checkpoints
from model.train.events import EVENTS_NAME, Event, read_events

logger = logging.getLogger(__name__)

NOT_TAKEN_OVER = ("checkpoint", "end")  # events of what stays behind


@dataclass(frozen=True)
class Trunk:
    """A checkpoint of a finished training to go on from."""

    manifest: Manifest
    step: int
    checkpoint: Path

    @property
    def events(self) -> Path:
        """The event log of the training that wrote it."""
        return self.checkpoint.parent.parent / EVENTS_NAME


def find_trunks(run: TrainRun, *, circumstances: Mapping[str, Any]) -> Iterator[Trunk]:
    """Yield what a training may go on from, the longest first.

    Args:
        circumstances: of this training; another precision, or compiling, gives other bits.
    """
    store = ArtifactStore(Path(run.data_root))
    found = [
        Trunk(manifest, int(kept["step"]), store.path(manifest.artifact) / kept["path"])
        for manifest in store.manifests(run.derivation.stage)
        if _family(manifest.derivation) == _family(run.derivation)
        and _arithmetic(manifest.facts) == _arithmetic(circumstances)
        for kept in manifest.facts["checkpoints"]
        if kept["step"] <= _shared_steps(manifest, run.train)
    ]
    yield from sorted(found, key=lambda trunk: -trunk.step)


def _arithmetic(circumstances: Mapping[str, Any]) -> tuple[str, str]:
    """Return what of a training's circumstances decides its last bits, number of ranks aside."""
    how = str(circumstances.get("compiling", "eager"))
    return str(circumstances["precision"]), "eager" if how.startswith("eager") else "compiled"


def _family(derivation: Derivation) -> dict[str, Any]:
    """Return all that fixes a training but its horizon."""
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
    """Return how many first steps two trainings of a family have in common."""
    steps = manifest.derivation.config["train"]["steps"] or manifest.counts["steps"]
    return min(flat_steps(train.model_copy(update={"steps": steps})), flat_steps(train))


def take_over(
    run: TrainRun, checkpoints: Checkpoints, *, circumstances: Mapping[str, Any]
) -> Trunk | None:
    """Give a training that has no checkpoint the longest trunk of its family, if there is one.

    Events come first and the checkpoint last: a kill in between leaves a training that begins anew.
    """
    for trunk in find_trunks(run, circumstances=circumstances):
        try:
            events = _events_to_take_over(trunk)
            checkpoints.directory.mkdir(parents=True, exist_ok=True)
            write_synced(checkpoints.directory.parent / EVENTS_NAME, events)
            checkpoints.take_over(trunk.checkpoint, step=trunk.step)
        except (ArtifactError, CheckpointError, OSError) as error:
            logger.warning("%s cannot be gone on from: %s", trunk.checkpoint, error)
            continue
        return trunk
    return None


def _events_to_take_over(trunk: Trunk) -> bytes:
    held: list[Event] = [
        event
        for event in read_events(trunk.events)
        if event["step"] <= trunk.step and event["kind"] not in NOT_TAKEN_OVER
    ]
    return "".join(json.dumps(event) + "\n" for event in held).encode()
