"""Check, before a training runs, that the checkpoints to score will be there.

``evaluation.checkpoints`` names them, and the stage that reads them comes after the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from model.config.outputs import TrainModelOutputs
from model.config.train import TrainConfig
from model.core.artifact import Manifest
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from model.optim.schedule import flat_steps
from tasks.engine.pipeline import Step
from tasks.stages.score_model import ScoreModel
from tasks.stages.train_model import TrainModel, count_steps


def check_checkpoints(steps: Sequence[Step], store: ArtifactStore) -> list[str]:
    """Refuse checkpoints to score that will not be there; return lines about doubtful ones.

    Args:
        steps: of a walk whose horizons are known.

    Raises:
        ConfigError: the training does not save at such a step, or did not keep it.
    """
    trainings = {step.artifact.key: step for step in steps if isinstance(step.config, TrainModel)}
    notes = []
    for training, wanted in _asked(steps):
        step = trainings.get(training)
        if step is None or not isinstance(step.config, TrainModel):
            continue
        if step.status.state == "complete":
            _require_kept(wanted, step, store)
        elif num_steps := count_steps(step.config, step.derivation, store):
            notes += _doubts(wanted, step, step.config.train, num_steps=num_steps, store=store)
    return notes


def _asked(steps: Iterable[Step]) -> Iterator[tuple[str, int]]:
    """Yield the key of a training and the step of a checkpoint of it that has yet to be scored."""
    for step in steps:
        config = step.config
        if isinstance(config, ScoreModel) and step.status.state != "complete":
            (model,) = step.derivation.inputs["model"]
            if isinstance(config.checkpoint, int):
                yield model.key, config.checkpoint


def _require_kept(wanted: int, step: Step, store: ArtifactStore) -> None:
    kept = sorted(_kept_steps(store.read_manifest(step.artifact)))
    if wanted not in kept:
        raise _not_there(
            wanted, step, expected=f"a kept step: {', '.join(map(str, kept)) or 'there is none'}"
        )


def _doubts(
    wanted: int, step: Step, train: TrainConfig, *, num_steps: int, store: ArtifactStore
) -> list[str]:
    every = train.checkpoint_every_steps
    pre_decay = flat_steps(train.model_copy(update={"steps": num_steps}))  # kept for good
    saved = sorted({*range(every, num_steps, every), pre_decay, num_steps})
    if wanted == pre_decay or wanted in saved[-train.keep_checkpoints :]:
        return []
    name = f"checkpoint {wanted} of training {step.artifact.name}"
    if wanted in saved:
        return [
            f"{name} is there to be scored only if it is the best: the last "
            f"{train.keep_checkpoints} are kept (keep_checkpoints)"
        ]
    if wanted < pre_decay and train.extend != "never" and wanted in _pre_decay_steps(step, store):
        return [f"{name} is there to be scored only if it resumes from a finished training's"]
    raise _not_there(
        wanted,
        step,
        expected=f"a step at which it saves: every {every} of its {num_steps} steps, {pre_decay} "
        "where its rate begins to fall, or the last",
    )


def _pre_decay_steps(step: Step, store: ArtifactStore) -> set[int]:
    """Return the checkpoints of finished trainings of this name: one may be resumed from."""
    finished = (
        manifest
        for manifest in TrainModelOutputs.manifests(store)
        if manifest.artifact.name == step.artifact.name
    )
    return {kept for manifest in finished for kept in _kept_steps(manifest)}


def _kept_steps(manifest: Manifest) -> set[int]:
    return {kept.step for kept in TrainModelOutputs.facts_of(manifest).checkpoints}


def _not_there(wanted: int, step: Step, *, expected: str) -> ConfigError:
    return ConfigError(
        f"training {step.artifact.name} has no checkpoint {wanted} to score",
        expected=f"best, last, or {expected}",
        found=wanted,
        where="evaluation.checkpoints",
        fix="correct it, or change checkpoint_every_steps or keep_checkpoints of that training",
    )
