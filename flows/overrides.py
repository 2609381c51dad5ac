"""What a user sets on top of a preset: all-optional twins of the configs, and their resolution.

Precedence: field default < preset < what the user set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from flows.presets import PRESETS, PretrainConfig
from model.config import (
    Config,
    ExportConfig,
    ModelConfig,
    ScoreConfig,
    TrainConfig,
    rows_per_step,
)
from model.errors import ConfigError
from tasks.config import (
    DataConfig,
    DedupConfig,
    FilterConfig,
    RegistryConfig,
    RunConfig,
    ShardsConfig,
    SourceConfig,
    TokenizerConfig,
    ValidationConfig,
)


class Overrides(BaseModel):
    """Base of the all-optional twins: unset fields keep the preset's value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_nearest(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    group = cls.__name__.removesuffix("Overrides").lower()
                    raise ValueError(unknown_key(f"{group}.{key}", _names(group, cls)).problem)
        return value

    def given(self) -> dict[str, Any]:
        """Return what the user set."""
        chosen = self.model_dump(mode="json", exclude_unset=True)
        return {name: value for name, value in chosen.items() if value is not None}


def all_optional(config: type[Config]) -> type[Overrides]:
    """Return the twin of a config in which every field may be left out."""
    fields: dict[str, Any] = {
        name: (
            field.rebuild_annotation() | None,
            Field(default=None, description=f"{field.description} [default {field.default}]"),
        )
        for name, field in config.model_fields.items()
    }
    return create_model(config.__name__, __base__=Overrides, **fields)


class SourceOverrides(all_optional(SourceConfig)):
    """Where raw documents come from."""


class ValidationOverrides(all_optional(ValidationConfig)):
    """The fixed rows that models are measured on."""


class FilterOverrides(all_optional(FilterConfig)):
    """Which raw documents stay."""


class DedupOverrides(all_optional(DedupConfig)):
    """Which documents count as copies."""


class TokenizerOverrides(all_optional(TokenizerConfig)):
    """The vocabulary."""


class ShardsOverrides(all_optional(ShardsConfig)):
    """How token shards are cut."""


class DataOverrides(all_optional(DataConfig)):
    """Randomness of the data."""


class RunOverrides(all_optional(RunConfig)):
    """How the pipeline runs on this machine."""


class ModelOverrides(all_optional(ModelConfig)):
    """The network."""


class TrainOverrides(all_optional(TrainConfig)):
    """The optimisation."""


class ScoreOverrides(all_optional(ScoreConfig)):
    """What is measured."""


class ExportOverrides(all_optional(ExportConfig)):
    """The folder other runtimes load."""


class RegistryOverrides(all_optional(RegistryConfig)):
    """How the model is filed."""


def resolve(preset: str, **groups: Overrides | Mapping[str, Any]) -> PretrainConfig:
    """Return the preset with the user's settings on top.

    Args:
        preset: name of a preset.
        groups: group name -> its overrides, as a twin or as plain values.

    Raises:
        ConfigError: a name is unknown (the nearest is named), a value is out of range, or two
            settings contradict each other.
    """
    if preset not in PRESETS:
        raise unknown_key(preset, PRESETS, kind="preset")
    base = PRESETS[preset]()
    merged = base.model_dump(mode="json")
    for group, overrides in groups.items():
        chosen = overrides.given() if isinstance(overrides, Overrides) else dict(overrides)
        _check_names(group, chosen)
        if group == "train" and chosen.keys() & set(TrainConfig.HORIZONS):
            merged["train"] |= dict.fromkeys(TrainConfig.HORIZONS)
        merged[group] |= chosen
    try:
        config = PretrainConfig.model_validate(merged)
    except ValidationError as exc:
        raise _invalid(exc) from exc
    return check(config.model_copy(update={"train": config.train.with_horizon_in_steps()}))


def check(config: PretrainConfig) -> PretrainConfig:
    """Return the config if its settings agree with each other.

    Raises:
        ConfigError: naming both fields that contradict.
    """
    rows_per_step(config.train, config.model)
    if config.filter.min_words > config.filter.max_words:
        raise ConfigError(
            "no document can have so many and so few words at once",
            expected="filter.min_words <= filter.max_words",
            found=f"{config.filter.min_words} > {config.filter.max_words}",
            where="filter.min_words and filter.max_words",
            fix="lower the first or raise the second",
        )
    if config.source.kind == "local" and not config.source.path:
        raise ConfigError(
            "a local source needs a path",
            expected="source.path=<folder, file or glob>",
            found="source.kind=local and no source.path",
            where="source.kind and source.path",
            fix="set source.path, or choose another source.kind",
        )
    return config


def unknown_key(found: str, known: Iterable[str], *, kind: str = "setting") -> ConfigError:
    """Return the error for a name nobody knows, naming the nearest one."""
    known = list(known)
    nearest = difflib.get_close_matches(found, known, n=1, cutoff=0.0)
    return ConfigError(
        f"unknown {kind} {found!r}; the nearest is {nearest[0]!r}",
        expected=f"one of {', '.join(known)}",
        found=found,
        fix=f"use {nearest[0]}, or leave it out",
    )


def _check_names(group: str, chosen: Mapping[str, Any]) -> None:
    groups = PretrainConfig.model_fields
    if group not in groups or group == "preset":
        raise unknown_key(group, [name for name in groups if name != "preset"], kind="group")
    config = groups[group].annotation
    assert isinstance(config, type)
    assert issubclass(config, Config)
    for name in chosen:
        if name not in config.model_fields:
            raise unknown_key(f"{group}.{name}", _names(group, config))


def _names(group: str, config: type[BaseModel]) -> list[str]:
    return [f"{group}.{name}" for name in config.model_fields]


def _invalid(exc: ValidationError) -> ConfigError:
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ConfigError(
        f"{where} cannot be {first['input']!r}",
        expected=first["msg"],
        found=first["input"],
        where=where,
        fix="see `--dry-run` for the resolved settings and their meaning in tasks/config.py",
    )
