"""Settings on top of a preset: all-optional twins of the configs, and the merged config.

Precedence: field default < preset < what the user set. Imports pydantic only, so that a command
line can refuse a wrong setting at once; ``flows.settings.resolve`` does what needs a store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from flows.settings.config import LadderConfig, PrepareConfig
from flows.settings.presets import LADDERS, PRESETS
from model.config.train import TrainConfig
from model.core.config import Config
from model.core.errors import ConfigError, unknown_key

SYNTAX = {  # kind of pydantic's error -> what would be right, where its own words do not show it
    "dict_type": """a JSON object, such as '{"<name>": <value>}', in quotes for a shell""",
    "tuple_type": """a JSON list, such as '[<value>, <value>]', in quotes for a shell""",
}
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
        return _without_unset(self.model_dump(mode="json", exclude_unset=True))


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # a form would send it back


@cache
def all_optional(config: type[Config]) -> type[Overrides]:
    """Return the twin of a config in which every field may be left out."""
    fields: dict[str, Any] = {
        name: (
            _twin_of(field.rebuild_annotation()),  # no `| None`: a form shows such unions badly
            Field(default=None, description=field.description, json_schema_extra=_no_default),
        )
        for name, field in config.model_fields.items()
    }
    name = config.__name__.removesuffix("Config")
    return create_model(f"{name}Overrides", __base__=Overrides, __doc__=config.__doc__, **fields)


def _twin_of(annotation: Any) -> Any:
    return all_optional(annotation) if _is_config(annotation) else annotation


def _is_config(annotation: Any) -> TypeGuard[type[Config]]:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def groups_of(config: type[Config]) -> dict[str, type[Config]]:
    """Return the groups of a run's config, or those in a group: name -> config class."""
    kinds = {name: field.annotation for name, field in config.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if _is_config(kind)}


def single_settings(config: type[Config]) -> tuple[str, ...]:
    """Return the settings of a run that stand alone, in no group."""
    return tuple(name for name in config.model_fields if name not in (*groups_of(config), "preset"))


def merged_config(preset: str, overrides: Mapping[str, Any], *, kind: type[ConfigT]) -> ConfigT:
    """Return the config of a preset with the user's settings on top, validated.

    Args:
        preset: name of a preset.
        overrides: group name -> its overrides, as a twin or as plain values; and settings that
            stand in no group.
        kind: the run's config class; it takes the groups of the preset that it has.

    Raises:
        ConfigError: a name is unknown (the nearest is named), a value is out of range, or two
            settings contradict each other.
    """
    if preset not in PRESETS:
        raise unknown_key(preset, PRESETS, kind="preset")
    merged = PRESETS[preset]().model_dump(mode="json", include=set(kind.model_fields))
    given = _given(overrides)
    _check_names(kind, given)
    if issubclass(kind, LadderConfig):
        merged["train"] |= dict.fromkeys(TrainConfig.HORIZONS)
        merged["sweep"] = LADDERS[preset].model_dump(mode="json")
        for group, chosen in given.items():
            _check_ladder(group, chosen)
    for group in ("chat", "preference"):
        if "sets" in given.get(group, {}):
            merged[group] |= {"kind": "sets", "weights": {}}  # the preset's are of other sets
    try:
        return kind.model_validate(_merged(kind, merged, given))
    except ValidationError as exc:
        raise _invalid(exc) from exc


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user set, as plain values."""
    plain = {
        name: value.given() if isinstance(value, Overrides) else value
        for name, value in settings.items()
    }
    return _without_unset(plain)


def _without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_unset(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }


def _merged(
    kind: type[Config], below: Mapping[str, Any], above: Mapping[str, Any]
) -> dict[str, Any]:
    """Return settings with others on top, group by group; a new horizon replaces the one below."""
    groups = groups_of(kind)
    merged = dict(below)
    if issubclass(kind, TrainConfig) and above.keys() & set(TrainConfig.HORIZONS):
        merged |= dict.fromkeys(TrainConfig.HORIZONS)
    for name, value in above.items():
        is_group = name in groups and isinstance(value, Mapping)
        merged[name] = _merged(groups[name], merged.get(name, {}), value) if is_group else value
    return merged


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


def _check_names(kind: type[Config], given: Mapping[str, Any]) -> None:
    groups, single = groups_of(kind), single_settings(kind)
    for name, chosen in given.items():
        if name not in (*groups, *single):
            raise unknown_key(name, (*groups, *single), kind="group")
        if name in groups:
            _check_fields(name, groups[name], chosen)


def _check_fields(group: str, kind: type[Config], chosen: Any) -> None:
    if not isinstance(chosen, Mapping):
        raise ConfigError(
            f"{group} is a group of settings",
            expected=f"one of {', '.join(_names(group, kind))}",
            found=f"{group}={chosen}",
            where=group,
            fix="name the setting and its value",
        )
    inner = groups_of(kind)
    for name, value in chosen.items():
        if name not in kind.model_fields:
            raise unknown_key(f"{group}.{name}", _names(group, kind))
        if name in inner:
            _check_fields(f"{group}.{name}", inner[name], value)


def _names(group: str, config: type[BaseModel]) -> list[str]:
    return [f"{group}.{name}" for name in config.model_fields]


def _invalid(exc: ValidationError) -> ConfigError:
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return ConfigError(
        f"{where} cannot be {first['input']!r}",
        expected=SYNTAX.get(first["type"], first["msg"]),
        found=first["input"],
        where=where,
        fix="docs/settings.md says what each setting means",
    )


def parse_settings(settings: Sequence[str], *, alone: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``group.field=value`` settings by group; a value is JSON, or else text.

    Args:
        alone: settings without a group.

    Raises:
        ConfigError: a setting has another form.

    Example:
        >>> parse_settings(["train.steps=100", "finetune.train.steps=10"])
        {'train': {'steps': 100}, 'finetune': {'train': {'steps': 10}}}
    """
    groups: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        *path, field = name.split(".")
        if not (equals and field and all(path) and (path or field in alone)):
            raise ConfigError(
                "a setting has no group, no field or no value",
                expected="group.field=value, such as train.steps=100",
                found=setting,
                where="--set",
                fix="write it like the example",
            )
        within = groups
        for number, group in enumerate(path):
            within = within.setdefault(group, {})
            if not isinstance(within, dict):
                raise _not_a_group(".".join(path[: number + 1]), found=within)
        within[field] = _value(text)
        if within[field] is None:
            raise _unsets_nothing(setting)
    return groups


def _unsets_nothing(setting: str) -> ConfigError:
    return ConfigError(
        "null does not unset what the preset sets",
        expected="a value",
        found=setting,
        where="--set",
        fix="leave it out to keep the preset's; for no limit give a number beyond what there is",
    )


def _not_a_group(name: str, *, found: Any) -> ConfigError:
    return ConfigError(
        f"{name} is a group of settings",
        expected=f"{name}.<setting>=<value>",
        found=f"{name}={found}",
        where="--set",
        fix="name the setting and its value",
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
