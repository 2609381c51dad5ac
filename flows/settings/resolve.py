"""Resolution of a run's settings: once per run, before any stage is planned.

``resolve`` merges and validates, pins branches of the hub and aliases of the registry, looks up the
base model, fills what is left unset from the model size, and turns budgets into steps. Command
line, deployment, dry run and plan take its result; nothing after it applies a default again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flows.settings.config import ChatModelConfig, LadderConfig, PrepareConfig
from flows.settings.overrides import merged_config
from model.config import defaults
from model.config.network import ModelConfig
from model.config.train import TrainConfig, check_machines, rows_per_step
from model.core.store import ArtifactStore
from tasks.planning.base_checkpoint import BaseCheckpoint, find_base
from tasks.planning.budget import Horizon, measured_horizon, planned_horizon
from tasks.planning.ladder import Rung, rungs
from tasks.stages.download import pinned_source
from tasks.stages.read_chats import pinned_chats
from tasks.stages.read_preferences import pinned_preferences
from tasks.stages.train_quality_model import pinned_quality_model

logger = logging.getLogger(__name__)

ConfigT_co = TypeVar("ConfigT_co", bound=PrepareConfig, covariant=True)
ConfigT = TypeVar("ConfigT", bound=PrepareConfig)
ChatModelT = TypeVar("ChatModelT", bound=ChatModelConfig)


@dataclass(frozen=True)
class ResolvedRun(Generic[ConfigT_co]):
    """The settings of one run with nothing left to decide."""

    config: ConfigT_co
    # The model that ``finetune.base`` names; ``None`` if the run trains its own.
    base: BaseCheckpoint | None = None
    ladder: tuple[Rung, ...] = ()  # the trainings of a sweep
    horizons: tuple[Horizon, ...] = ()  # how budgets in minutes became steps


def resolve(
    preset: str,
    overrides: Mapping[str, Any],
    *,
    kind: type[ConfigT],
    store: ArtifactStore,
    measure: bool = False,
) -> ResolvedRun[ConfigT]:
    """Return the settings of a run.

    Args:
        preset: name of a preset.
        overrides: what the user set on top: group name -> fields.
        kind: the config class of the flow.
        store: where a base model and measured speeds are looked up.
        measure: measure the speed of this machine for a budget in minutes, unless it is known; else
            a stated speed is taken.

    Raises:
        ConfigError: a setting is unknown, out of range, or contradicts another.
        ArtifactError: the base model is not in the store.
        RegistryError: it is not in the registry.
        DownloadError: the hub does not say which commit a branch is.
        ChildError: the process that measures the speed failed.
    """
    return resolve_config(merged_config(preset, overrides, kind=kind), store=store, measure=measure)


def resolve_config(
    config: ConfigT, *, store: ArtifactStore, measure: bool = False
) -> ResolvedRun[ConfigT]:
    """Return the settings of a run from its merged config; see ``resolve``."""
    update = {
        "source": pinned_source(config.source),
        "quality_model": pinned_quality_model(config.quality_model),
    }
    config = config.model_copy(update=update)
    if isinstance(config, ChatModelConfig):
        return _resolved_trainings(config, store=store, measure=measure)
    if isinstance(config, LadderConfig):
        ladder = rungs(
            config.sweep,
            model=config.model,
            train=config.train,
            vocab_size=config.tokenizer.vocab_size,
        )
        return ResolvedRun(config, ladder=tuple(ladder))
    return ResolvedRun(config)


def _resolved_trainings(
    config: ChatModelT, *, store: ArtifactStore, measure: bool
) -> ResolvedRun[ChatModelT]:
    vocab_size = config.tokenizer.vocab_size
    train = _filled(config.train, config.model, vocab_size)
    base, model = None, config.model
    if config.finetune.base:
        base = find_base(config.finetune.base, store)
        model, vocab_size = base.model, base.vocab_size
        config = _with_base(config, base)
    finetune, preference = config.finetune, config.preference
    chat_train = _filled(finetune.train, model, vocab_size, rate_scale=finetune.rate_scale)
    horizons = _Horizons(model=model, store=store, measure=measure)
    update: dict[str, Any] = {
        "train": horizons.in_steps(train, vocab_size=config.tokenizer.vocab_size)
    }
    if config.makes_chat_model:
        update["chat"] = pinned_chats(config.chat)
        chat_train = horizons.in_steps(chat_train, vocab_size=vocab_size)
    if preference.method == "dpo":
        preference_train = _filled(preference.train, model, vocab_size, rows_per_group=2)
        preference = preference.model_copy(update={"train": preference_train})
        if config.makes_chat_model:
            preference = pinned_preferences(preference)
    update |= {
        "finetune": finetune.model_copy(update={"train": chat_train}),
        "preference": preference,
    }
    return ResolvedRun(config.model_copy(update=update), base=base, horizons=tuple(horizons.found))


def _with_base(config: ChatModelT, base: BaseCheckpoint) -> ChatModelT:
    """Return the config with its base model as an artifact, and the shape of that."""
    address, found = config.finetune.base, base.trained.relative_path
    if found != address:
        logger.info("finetune.base: %s is %s", address, found)
    finetune = config.finetune.model_copy(update={"base": found})
    return config.model_copy(update={"finetune": finetune, "model": base.model})


def _filled(
    train: TrainConfig,
    model: ModelConfig,
    vocab_size: int,
    *,
    rate_scale: float = 1.0,
    rows_per_group: int = 1,
) -> TrainConfig:
    """Return a training with every unset value filled, and its batch checked.

    Raises:
        ConfigError: the batch does not divide into rows and processes, or machines that train
            together have no address to meet at.
    """
    train = defaults.resolve(train, model, vocab_size, rate_scale=rate_scale)
    rows_per_step(train, model, rows_per_group=rows_per_group)
    check_machines(train)
    return train


@dataclass
class _Horizons:
    """Turns budgets in minutes into steps, and remembers how."""

    model: ModelConfig
    store: ArtifactStore
    measure: bool

    def __post_init__(self) -> None:
        self.found: list[Horizon] = []

    def in_steps(self, train: TrainConfig, *, vocab_size: int) -> TrainConfig:
        """Return a training whose budget, if it has one, is a number of steps."""
        if not train.budget_minutes:
            return train
        horizon_of = measured_horizon if self.measure else planned_horizon
        self.found.append(
            horizon_of(train, model=self.model, vocab_size=vocab_size, store=self.store)
        )
        return self.found[-1].train
