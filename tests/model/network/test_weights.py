"""Saved models: bit-for-bit round trip, and errors for files that do not fit."""

from __future__ import annotations

import pytest
import torch

from model.core.errors import ArtifactError
from model.network.weights import ARCHITECTURE_NAME, WEIGHTS_NAME, load_model, save_model
from tests.support.small_model import random_model


@pytest.mark.parametrize("tied", [True, False])
def test_save_model_round_trip_is_exact(tied, tmp_path):
    saved = random_model(tied=tied)
    save_model(saved, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.architecture == saved.architecture
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_save_model_equal_models_give_equal_bytes(tmp_path):
    save_model(random_model(), tmp_path / "a")
    save_model(random_model(), tmp_path / "b")
    for name in (WEIGHTS_NAME, ARCHITECTURE_NAME):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", [WEIGHTS_NAME, ARCHITECTURE_NAME])
def test_load_model_missing_file_is_named(name, tmp_path):
    save_model(random_model(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="missing or cannot be read") as caught:
        load_model(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_load_model_cut_weights_are_refused(tmp_path):
    save_model(random_model(), tmp_path)
    whole = (tmp_path / WEIGHTS_NAME).read_bytes()
    (tmp_path / WEIGHTS_NAME).write_bytes(whole[:-10])
    with pytest.raises(ArtifactError, match="missing or cannot be read"):
        load_model(tmp_path)


def test_load_model_weights_of_another_model_are_refused(tmp_path):
    save_model(random_model(), tmp_path)
    save_model(random_model(mlp_width=48), tmp_path / "other")
    (tmp_path / "other" / WEIGHTS_NAME).replace(tmp_path / WEIGHTS_NAME)
    with pytest.raises(ArtifactError, match="do not fit the architecture") as caught:
        load_model(tmp_path)
    assert "layers.0.mlp.down_proj.weight of shape (24, 40)" in str(caught.value)
    assert "(24, 48); 6 parameters differ" in str(caught.value)
