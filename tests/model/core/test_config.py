"""The part of a config that identifies results: marks on its fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from model.core.config import OMIT_DEFAULT, RUNTIME_ONLY, Config


class Inner(Config):
    steps: int = 1
    workers: Annotated[int, RUNTIME_ONLY] = 1
    rate: Annotated[float | None, OMIT_DEFAULT] = Field(default=None, gt=0)


class Outer(Config):
    inner: Inner = Inner()
    names: Annotated[list[str], OMIT_DEFAULT] = Field(default_factory=list)
    other: Annotated[Inner, OMIT_DEFAULT] = Inner()


def test_runtime_only_field_is_never_in_the_key() -> None:
    assert Inner(workers=7).semantic() == Inner().semantic() == {"steps": 1}


def test_omit_default_field_is_in_the_key_once_it_has_another_value() -> None:
    assert Inner(rate=None).semantic() == {"steps": 1}
    assert Inner(rate=0.5).semantic() == {"steps": 1, "rate": 0.5}


def test_marks_hold_in_nested_configs_and_for_default_factories() -> None:
    assert Outer().semantic() == {"inner": {"steps": 1}}
    changed = Outer(inner=Inner(rate=2.0), names=["a"], other=Inner(steps=2))
    assert changed.semantic() == {
        "inner": {"steps": 1, "rate": 2.0},
        "names": ["a"],
        "other": {"steps": 2},
    }
