"""Stage train_model: a trained model with its checkpoints and events, made by a child process."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Annotated

from model.config.network import ModelConfig
from model.config.outputs import TrainModelOutputs
from model.config.runs import TrainRun
from model.config.train import DirectPreference, MixturePart, TrainConfig, batch_tokens_of
from model.config.trained_model import Style
from model.core.artifact import MANIFEST_NAME, Artifact, Derivation
from model.core.config import OMIT_DEFAULT, RUNTIME_ONLY, Config
from model.core.errors import ConfigError
from model.core.store import ArtifactStore, Work
from tasks.engine.child import Child
from tasks.engine.launchers import choose_launcher
from tasks.engine.stage import ResourceShare, Stage
from tasks.reporting.progress import TrainingProgress
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.stages.write_preference_shards import WritePreferenceShardsOutputs
from tasks.stages.write_shards import WriteShardsOutputs
from tasks.tracking.training import training_run

logger = logging.getLogger(__name__)

STEP_VERSION = 1
SHARD_STAGES = (WriteShardsOutputs, WriteChatShardsOutputs, WritePreferenceShardsOutputs)


class TrainModel(Config):
    """One training, and where it reports to."""

    model: ModelConfig
    train: TrainConfig
    mixture_weights: tuple[float, ...] = ()  # of the training inputs in their order; () = equal
    # Instead of those, how often an epoch reads each training input.
    repeats: Annotated[tuple[float, ...], OMIT_DEFAULT] = ()
    # Share of rows from the inputs in the role ``pretraining``.
    pretraining_frac: Annotated[float, OMIT_DEFAULT] = 0.0
    # The training inputs are pairs of answers, learned against ``init_from``.
    dpo: Annotated[DirectPreference | None, OMIT_DEFAULT] = None
    style: Annotated[Style, RUNTIME_ONLY] = "text"
    sample_prompts: Annotated[tuple[str, ...], RUNTIME_ONLY] = ()
    tracking_parent: Annotated[str | None, RUNTIME_ONLY] = None


def build(work: Work, config: TrainModel, share: ResourceShare) -> None:  # noqa: ARG001
    """Run the training process to its end.

    Inputs: ``tokenizer``, ``validation``, ``training`` shards, any number of them; and where a
    model is trained further ``init_from``, and shards of its ``pretraining`` text, of which all
    targets count.
    """
    num_steps = count_steps(config, work.derivation, work.store)
    assert num_steps, "the shards are written"
    child = Child(work, _run_config(work, config, num_steps=num_steps))
    launcher = choose_launcher(config.train)
    with TrainingProgress(TrainModelOutputs(work.path).events, num_steps=num_steps) as progress:
        launcher.run(child, watch=progress.update)


def count_steps(config: TrainModel, derivation: Derivation, store: ArtifactStore) -> int | None:
    """Return the horizon in steps; ``None`` if it is in epochs of rows that are not written yet."""
    train = config.train
    if train.epochs is None:
        return train.steps
    training = derivation.inputs["training"]
    if not all((store.path(item) / MANIFEST_NAME).exists() for item in training):
        return None
    rows = _rows_per_epoch(config, training, store)
    num_rows = train.epochs * sum(rows) / (1 - config.pretraining_frac)
    return max(1, math.ceil(num_rows * config.model.context_tokens / batch_tokens_of(train)))


def _rows_per_epoch(
    config: TrainModel, training: Sequence[Artifact], store: ArtifactStore
) -> list[float]:
    """Return how many rows of each training input an epoch reads."""
    repeats = config.repeats or (1.0,) * len(training)
    _require_one_each(repeats, training, where="repeats")
    return [times * _num_rows(item, store) for times, item in zip(repeats, training, strict=True)]


def _num_rows(shards: Artifact, store: ArtifactStore) -> int:
    """Return the rows of an artifact of any stage that writes training shards."""
    (outputs,) = (item for item in SHARD_STAGES if item.made(shards))
    return outputs.of(store, shards).counts.num_rows


def _run_config(work: Work, config: TrainModel, *, num_steps: int) -> TrainRun:
    inputs = work.derivation.inputs
    (tokenizer,) = inputs["tokenizer"]
    (validation,) = inputs["validation"]
    base = next(iter(inputs.get("init_from", ())), None)
    return TrainRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=config.model,
        train=config.train.model_copy(update={"steps": num_steps, "epochs": None}),
        tokenizer=tokenizer.relative_path,
        mixture=mixture(work, config),
        validation=validation.relative_path,
        init_from=base and work.store.relative(TrainModelOutputs.of(work.store, base).model),
        dpo=config.dpo,
        style=config.style,
        tracking=training_run(work.derivation, parent_run_id=config.tracking_parent),
        sample_prompts=config.sample_prompts,
    )


def mixture(work: Work, config: TrainModel) -> tuple[MixturePart, ...]:
    """Return all shard sets with their shares of the rows."""
    inputs = work.derivation.inputs
    training = inputs["training"]
    weights = config.mixture_weights
    if config.repeats:
        weights = tuple(_rows_per_epoch(config, training, work.store))
    parts = mixture_of(training, weights)
    if not config.pretraining_frac:
        return parts
    texts = inputs["pretraining"]
    rows = [_num_rows(item, work.store) for item in texts]
    share = config.pretraining_frac / (1 - config.pretraining_frac)
    total = share * sum(part.weight for part in parts)
    return (
        *parts,
        *(
            MixturePart(shards=item.relative_path, weight=total * number / sum(rows), loss_on="all")
            for item, number in zip(texts, rows, strict=True)
        ),
    )


def mixture_of(training: Sequence[Artifact], weights: Sequence[float]) -> tuple[MixturePart, ...]:
    """Return the shard sets with their weights, equal ones unless some are given.

    Raises:
        ConfigError: there is not one weight for each shard set.
    """
    if weights:
        _require_one_each(weights, training, where="mixture_weights")
    return tuple(
        MixturePart(shards=item.relative_path, weight=weight)
        for item, weight in zip(training, weights or [1.0] * len(training), strict=True)
    )


def _require_one_each(
    weights: Sequence[float], training: Sequence[Artifact], *, where: str
) -> None:
    if len(weights) != len(training):
        raise ConfigError(
            "every shard set of a mixture needs a weight",
            expected=f"{len(training)} weights, or none for equal ones",
            found=f"{len(weights)}: {', '.join(map(str, weights))}",
            where=where,
            fix="give one weight for each input of train_model in the role training",
        )


train_model = Stage(
    TrainModelOutputs, version=STEP_VERSION, build=build, scope="child", resume=True
)
