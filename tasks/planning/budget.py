"""Horizon in steps of a budget in minutes, resolved before any key is made.

The budget counts optimizer steps alone. Validation and checkpoints come on top: how often they
happen changes no result, so it must not change the horizon either.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config.network import ModelConfig
from model.config.train import TrainConfig, batch_tokens_of
from model.core.artifact import Artifact
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from tasks.planning.estimate import stated_tokens_per_second
from tasks.stages.measure_speed import (
    Machine,
    MeasureSpeed,
    known_speed,
    measure_speed,
    measured_speed,
)


@dataclass(frozen=True)
class Horizon:
    """A training whose horizon is in steps, and how a budget came to them."""

    train: TrainConfig  # with ``steps``, without a budget
    text: str  # for the plan
    # The artifact whose loss would change the horizon; ``None`` if none was used.
    measurement: Artifact | None


def planned_horizon(
    train: TrainConfig, *, model: ModelConfig, vocab_size: int, store: ArtifactStore
) -> Horizon:
    """Return what a budget buys as far as is known without measuring anything.

    Raises:
        ConfigError: the budget is one of several machines.
    """
    trial = _trial(train, model, vocab_size)
    speed = known_speed(trial, store)
    if speed:
        return _horizon(train, speed.tokens_per_second, source="measured here", trial=trial)
    rate, source = stated_tokens_per_second(train, model.architecture(vocab_size))
    text = f"{source}; a run measures the speed of this machine first, and its horizon will differ"
    return _horizon(train, rate, source=text, trial=None)


def measured_horizon(
    train: TrainConfig, *, model: ModelConfig, vocab_size: int, store: ArtifactStore
) -> Horizon:
    """Return what a budget buys on this machine, whose speed is measured unless it was before.

    Raises:
        ConfigError: the budget is one of several machines.
        ChildError: the measuring process failed.
    """
    trial = _trial(train, model, vocab_size)
    rate = measured_speed(trial, store).tokens_per_second
    return _horizon(train, rate, source="measured here", trial=trial)


def _trial(train: TrainConfig, model: ModelConfig, vocab_size: int) -> MeasureSpeed:
    if train.nodes > 1:
        raise ConfigError(
            "the speed of several machines cannot be measured beforehand",
            expected="train.nodes=1, or a horizon in steps or tokens",
            found=f"train.nodes={train.nodes} and train.budget_minutes={train.budget_minutes}",
            where="train.budget_minutes",
            fix="set train.tokens",
        )
    return MeasureSpeed(
        model=model, train=train, vocab_size=vocab_size, machine=Machine.here(train)
    )


def _horizon(
    train: TrainConfig, rate: float, *, source: str, trial: MeasureSpeed | None
) -> Horizon:
    assert train.budget_minutes
    tokens = train.budget_minutes * 60 * rate
    steps = max(1, int(tokens / batch_tokens_of(train)))
    return Horizon(
        train=train.model_copy(update={"budget_minutes": None, "steps": steps}),
        text=f"horizon: {train.budget_minutes:g} minutes of optimizer steps at {rate:,.0f} "
        f"tokens/s are {steps:,} steps ({source})",
        measurement=trial
        and measure_speed.derive(trial.model.size, config=trial, inputs={}).artifact,
    )
