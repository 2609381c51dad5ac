"""What a user sets on top of a preset: all-optional twins of the configs, and their resolution.

Precedence: field default < preset < what the user set.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from flows.settings.presets import (
    LADDERS,
    PRESETS,
    ChatModelConfig,
    LadderConfig,
    PrepareConfig,
    PretrainConfig,
)
from model.config import defaults
from model.config.network import ModelConfig
from model.config.train import TrainConfig, check_machines, rows_per_step
from model.core.config import Config
from model.core.errors import ConfigError
from tasks.config.chat import ChatConfig, PreferenceConfig
from tasks.config.evaluation import EvaluationConfig

SYNTAX = {  # kind of pydantic's error -> what would be right, where its own words do not show it
    "dict_type": """a JSON object, such as '{"<name>": <value>}', in quotes for a shell""",
    "tuple_type": """a JSON list, such as '[<value>, <value>]', in quotes for a shell""",
}
SET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
ConfigT = TypeVar("ConfigT", bound=PrepareConfig)
ChatModelT = TypeVar("ChatModelT", bound=ChatModelConfig)


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


def resolve(preset: str, *, kind: type[ConfigT], **settings: Any) -> ConfigT:
    """Return the preset with the user's settings on top.

    Args:
        preset: name of a preset.
        kind: the run's config class; it takes the groups of the preset that it has.
        settings: group name -> its overrides, as a twin or as plain values; and settings that stand
            alone.

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
    given = _given(settings)
    _check_names(kind, given)
    if issubclass(kind, LadderConfig):
        for group, chosen in given.items():
            _check_ladder(group, chosen)
    for group in ("chat", "preference"):
        if "sets" in given.get(group, {}):
            merged[group] |= {"kind": "sets", "weights": {}}  # the preset's are of other sets
    merged = _merged(kind, merged, given)
    try:
        config = kind.model_validate(merged)
    except ValidationError as exc:
        raise _invalid(exc) from exc
    _check(config)
    return _dialled(config) if isinstance(config, ChatModelConfig) else config


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


def _dialled(config: ChatModelT) -> ChatModelT:
    """Return a config whose trainings have every value; one of another base is left to its walk."""
    vocab_size = config.tokenizer.vocab_size
    train = defaults.resolve(config.train, config.model, vocab_size)
    rows_per_step(train, config.model)
    check_machines(train)
    config = config.model_copy(update={"train": train})
    return config if config.finetune.base else dialled_chat(config, config.model, vocab_size)


def dialled_chat(config: ChatModelT, model: ModelConfig, vocab_size: int) -> ChatModelT:
    """Return a config whose trainings on a base model have every value.

    Raises:
        ConfigError: a batch does not divide, or machines do not know where to meet.
    """
    finetune, preference = config.finetune, config.preference
    train = defaults.resolve(finetune.train, model, vocab_size, rate_scale=finetune.rate_scale)
    rows_per_step(train, model)
    check_machines(train)
    update: dict[str, Any] = {"finetune": finetune.model_copy(update={"train": train})}
    if preference.method == "dpo":
        train = defaults.resolve(preference.train, model, vocab_size)
        rows_per_step(train, model, rows_per_group=2)
        check_machines(train)
        update["preference"] = preference.model_copy(update={"train": train})
    return config.model_copy(update=update)


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
    if isinstance(config, ChatModelConfig):
        _check_sets("chat", config.chat)
        _check_sets("preference", config.preference)
        _check_preference(config.preference)
        _check_harness(config.evaluation)
    if isinstance(config, PretrainConfig) and config.finetune.base:
        raise ConfigError(
            "a pretraining goes on with the base model that it makes",
            expected="no finetune.base",
            found=config.finetune.base,
            where="finetune.base",
            fix="leave it out, or run the flow finetune: python -m flows.finetune",
        )
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
    if config.source.kind != "local" and config.source.path:
        raise ConfigError(
            "only a local source has a path",
            expected="source.kind=local beside source.path",
            found=f"source.kind={config.source.kind} and source.path={config.source.path}",
            where="source.kind and source.path",
            fix="set source.kind=local, or leave source.path out",
        )


def _check_sets(group: str, config: ChatConfig | PreferenceConfig) -> None:
    if config.kind == "demo":
        return
    for name in config.sets:
        if not re.fullmatch(SET_NAME, name):
            raise ConfigError(
                f"the name of a {group} set cannot be that of a directory",
                expected="letters, digits, '.', '_' and '-'",
                found=name,
                where=f"{group}.sets",
                fix="give the set another name",
            )
    if not config.sets:
        raise ConfigError(
            f"there are no {group} sets",
            expected="at least one name with the address of its files",
            found="none",
            where=f"{group}.sets",
            fix=f'set {group}.sets={{"<name>": "<file, folder or glob>"}}',
        )
    strangers = sorted(config.weights.keys() - config.sets.keys())
    if strangers:
        known = [f"{group}.weights.{name}" for name in config.sets]
        raise unknown_key(f"{group}.weights.{strangers[0]}", known)
    if any(weight <= 0 for weight in config.weights.values()):
        raise ConfigError(
            f"a {group} set cannot be read less than never",
            expected=f"weights above 0; leave a set out of {group}.sets to do without it",
            found=config.weights,
            where=f"{group}.weights",
            fix="name how often an epoch reads the set",
        )


def _check_preference(config: PreferenceConfig) -> None:
    if config.method == "dpo" and config.train.budget_minutes:
        raise ConfigError(
            "preference tuning has no budget of minutes",
            expected="preference.train.epochs, steps or tokens",
            found=f"preference.train.budget_minutes={config.train.budget_minutes:g}",
            where="preference.train.budget_minutes",
            fix="set another horizon: the speed that a budget is made of is measured without the "
            "reference model that reads along",
        )


def _check_harness(config: EvaluationConfig) -> None:
    if config.harness == "on" and not config.sets:
        raise ConfigError(
            "the harness has nothing to ask",
            expected="evaluation.sets with at least one set",
            found="evaluation.harness=on and no evaluation.sets",
            where="evaluation.harness and evaluation.sets",
            fix='set evaluation.sets={"<task>": "<its parquet file>"}, or evaluation.harness=off',
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
