"""Which checkpoints of a training can be scored, as far as that is known before it runs.

``evaluation.checkpoints`` names them, and the stage that reads them comes after the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from model.errors import ConfigError
from model.store import ArtifactStore
from model.train_config import TrainConfig
from tasks.pipeline import Step
from tasks.score_model import ScoreModel
from tasks.train_model import TrainModel, count_steps

DECAY_SLACK_STEPS = 2  # where decay begins, a checkpoint is written; rounding is the trainer's


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
    kept = sorted(_kept_by(store.read_manifest(step.artifact).facts))
    if wanted not in kept:
        raise _not_there(
            wanted, step, expected=f"a kept step: {', '.join(map(str, kept)) or 'there is none'}"
        )


def _doubts(
    wanted: int, step: Step, train: TrainConfig, *, num_steps: int, store: ArtifactStore
) -> list[str]:
    every = train.checkpoint_every_steps
    is_saved = wanted % every == 0 or wanted == num_steps
    is_where_decay_begins = (
        abs(wanted - (1 - train.decay_frac) * num_steps) <= DECAY_SLACK_STEPS
    )  # kept for good
    may_be_taken_over = any(  # a training may go on from the checkpoint of another
        wanted in _kept_by(manifest.facts) for manifest in store.manifests("train_model")
    )
    is_possible = is_saved or is_where_decay_begins or may_be_taken_over
    if wanted > num_steps or not is_possible:
        raise _not_there(
            wanted,
            step,
            expected=f"a step at which it saves: every {every} of its {num_steps} steps, or the "
            "last",
        )
    saved = sorted({*range(every, num_steps, every), num_steps})
    if is_where_decay_begins or wanted in saved[-train.keep_checkpoints :]:
        return []
    return [
        f"checkpoint {wanted} of training {step.artifact.name} is there to be scored only if it "
        f"is the best: the last {train.keep_checkpoints} are kept (keep_checkpoints)"
    ]


def _kept_by(facts: dict[str, object]) -> set[int]:
    kept = facts.get("checkpoints", ())
    assert isinstance(kept, list | tuple)
    return {int(item["step"]) for item in kept}


def _not_there(wanted: int, step: Step, *, expected: str) -> ConfigError:
    return ConfigError(
        f"training {step.artifact.name} has no checkpoint {wanted} to score",
        expected=f"best, last, or {expected}",
        found=wanted,
        where="evaluation.checkpoints",
        fix="correct it, or change checkpoint_every_steps or keep_checkpoints of that training",
    )
