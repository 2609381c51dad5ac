"""Overrides: all-optional twins of the configs, merged into a preset."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flows.settings.config import PretrainConfig
from flows.settings.overrides import all_optional, groups_of
from model.config.train import TrainConfig


def test_twin_of_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"the nearest is 'train.steps'"):
        all_optional(TrainConfig).model_validate({"stepz": 3})


def test_twin_has_the_fields_and_limits_of_its_config() -> None:
    for group, config in groups_of(PretrainConfig).items():
        twin = all_optional(config)
        assert twin.model_fields.keys() == config.model_fields.keys(), group
        assert twin().given() == {}
    with pytest.raises(ValidationError, match="greater than 0"):
        all_optional(TrainConfig).model_validate({"learning_rate": -1})
