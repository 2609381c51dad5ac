"""Stage train_model: launch the training process, watch it; it puts its model into the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

from model.artifact import Artifact
from model.config import (
    RUNTIME_ONLY,
    Config,
    MixturePart,
    ModelConfig,
)
from model.errors import ConfigError
from model.run_config import TrainRun
from model.store import Work
from model.train_config import TrainConfig
from tasks.child import Child
from tasks.launchers import choose_launcher
from tasks.progress import TrainingProgress
from tasks.stage import Share, Stage
from tasks.tracking_training import training_run

logger = logging.getLogger(__name__)

STEP_VERSION = 1


class TrainModel(Config):
    """One training, and where it reports to."""

    model: ModelConfig
    train: TrainConfig
    mixture_weights: tuple[float, ...] = ()  # of the training inputs in their order; () = equal
    sample_prompts: Annotated[tuple[str, ...], RUNTIME_ONLY] = ()
    tracking_parent: Annotated[str | None, RUNTIME_ONLY] = None


def build(work: Work, config: TrainModel, share: Share) -> None:  # noqa: ARG001
    """Run the training process to its end."""
    child = Child(work, _run_config(work, config))
    launcher = choose_launcher(config.train)
    assert config.train.steps
    with TrainingProgress(work.path / "events.jsonl", num_steps=config.train.steps) as progress:
        launcher.run(child, watch=progress.update)


def _run_config(work: Work, config: TrainModel) -> TrainRun:
    (tokenizer,) = work.derivation.inputs["tokenizer"]
    (validation,) = work.derivation.inputs["validation"]
    return TrainRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=config.model,
        train=config.train,
        tokenizer=tokenizer.relative_path,
        mixture=mixture_of(work.derivation.inputs["training"], config.mixture_weights),
        validation=validation.relative_path,
        tracking=training_run(work.derivation, parent_run_id=config.tracking_parent),
        sample_prompts=config.sample_prompts,
    )


def mixture_of(training: Sequence[Artifact], weights: Sequence[float]) -> tuple[MixturePart, ...]:
    """Return the shard sets with their weights, equal ones unless some are given.

    Raises:
        ConfigError: there is not one weight for each shard set.
    """
    if weights and len(weights) != len(training):
        raise ConfigError(
            "every shard set of a mixture needs a weight",
            expected=f"{len(training)} weights, or none for equal ones",
            found=f"{len(weights)}: {', '.join(map(str, weights))}",
            where="mixture_weights",
            fix="give one weight for each input of train_model in the role training",
        )
    return tuple(
        MixturePart(shards=item.relative_path, weight=weight)
        for item, weight in zip(training, weights or [1.0] * len(training), strict=True)
    )


train_model = Stage("train_model", version=STEP_VERSION, build=build, scope="child", resume=True)
