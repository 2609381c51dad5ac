"""What a user sets on top of a preset: all-optional twins of the configs, and their resolution.

Precedence: field default < preset < what the user set.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from flows.presets import LADDERS, PRESETS, LadderConfig, PrepareConfig, PretrainConfig
from model import dial
from model.config import Config
from model.errors import ConfigError
from model.train_config import TrainConfig, check_machines, rows_per_step

ConfigT = TypeVar("ConfigT", bound=PrepareConfig)


class Overrides(BaseModel):
    """Base of the all-optional twins: unset fields keep the preset's value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_nearest(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    words = re.findall("[A-Z][a-z]*", cls.__name__.removesuffix("Overrides"))
                    group = "_".join(words).lower()
                    raise ValueError(unknown_key(f"{group}.{key}", _names(group, cls)).problem)
            return {key: item for key, item in value.items() if item is not None}
        return value

    def given(self) -> dict[str, Any]:
        """Return what the user set."""
        chosen = self.model_dump(mode="json", exclude_unset=True)
        return {name: value for name, value in chosen.items() if value is not None}


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # a form would send it back


@cache
def all_optional(config: type[Config]) -> type[Overrides]:
    """Return the twin of a config in which every field may be left out."""
    fields: dict[str, Any] = {
        name: (
            field.rebuild_annotation(),  # without `| None`: a form shows such unions badly
            Field(default=None, description=field.description, json_schema_extra=_no_default),
        )
        for name, field in config.model_fields.items()
    }
    name = config.__name__.removesuffix("Config")
    return create_model(f"{name}Overrides", __base__=Overrides, __doc__=config.__doc__, **fields)


def groups_of(config: type[Config]) -> dict[str, type[Config]]:
    """Return the groups of a run's config: name -> config class."""
    kinds = {name: field.annotation for name, field in config.model_fields.items()}
    return {
        name: kind
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Config)
    }


def resolve(
    preset: str, *, kind: type[ConfigT], **groups: Overrides | Mapping[str, Any]
) -> ConfigT:
    """Return the preset with the user's settings on top.

    Args:
        preset: name of a preset.
        kind: the run's config class; it takes the groups of the preset that it has.
        groups: group name -> its overrides, as a twin or as plain values.

    Raises:
        ConfigError: a name is unknown (the nearest is named), a value is out of range, or two
            settings contradict each other.
    """
    if preset not in PRESETS:
        raise unknown_key(preset, PRESETS, kind="preset")
    merged = PRESETS[preset]().model_dump(mode="json", include=set(kind.model_fields))
    if issubclass(kind, LadderConfig):
        merged["train"] |= dict.fromkeys(TrainConfig.HORIZONS)
        merged["sweep"] = LADDERS[preset].model_dump(mode="json")
    for group, overrides in groups.items():
        given = overrides.given() if isinstance(overrides, Overrides) else overrides
        chosen = {name: value for name, value in given.items() if value is not None}
        _check_names(kind, group, chosen)
        if issubclass(kind, LadderConfig):
            _check_ladder(group, chosen)
        if group == "train" and chosen.keys() & set(TrainConfig.HORIZONS):
            merged["train"] |= dict.fromkeys(TrainConfig.HORIZONS)
        merged[group] = merged.get(group, {}) | chosen
    try:
        config = kind.model_validate(merged)
    except ValidationError as exc:
        raise _invalid(exc) from exc
    _check(config)
    if isinstance(config, PretrainConfig):
        train = dial.resolve(config.train, config.model, config.tokenizer.vocab_size)
        rows_per_step(train, config.model)
        check_machines(train)
        return config.model_copy(update={"train": train})
    return config


def _check_ladder(group: str, chosen: Mapping[str, Any]) -> None:
    """Refuse settings of one training where a ladder has several."""
    own = {"model": {"size"}, "train": set(TrainConfig.HORIZONS)}
    for name in sorted(chosen.keys() & own.get(group, set())):
        raise ConfigError(
            "each training of a ladder has its own size and horizon",
            expected="sweep.sizes, and sweep.tokens_per_param or sweep.tokens",
            found=f"{group}.{name}={chosen[name]}",
            where=f"{group}.{name}",
            fix="leave it out and set those of the sweep",
        )


def _check(config: PrepareConfig) -> None:
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


def _check_names(kind: type[Config], group: str, chosen: Mapping[str, Any]) -> None:
    groups = groups_of(kind)
    if group not in groups:
        raise unknown_key(group, groups, kind="group")
    for name in chosen:
        if name not in groups[group].model_fields:
            raise unknown_key(f"{group}.{name}", _names(group, groups[group]))


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
        fix="docs/settings.md says what each setting means",
    )
