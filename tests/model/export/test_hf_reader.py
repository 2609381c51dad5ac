"""model.export.hf_reader: an export read back is the same model; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from model.config.trained_model import ExportConfig
from model.core.errors import ArtifactError, LLMError, TokenizerError
from model.export.hf_reader import load_pretrained
from model.export.hf_writer import export
from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import train_bpe
from tests.support.small_model import random_ids, random_model
from tests.support.small_tokenizer import SENTENCES, VOCAB_SIZE, train_small_tokenizer


@pytest.fixture
def folder(tmp_path) -> Path:
    train_small_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "model"


def _export(folder: Path, *, dtype: str = "float32", **changes):
    network = random_model(vocab_size=VOCAB_SIZE, **changes)
    config = ExportConfig.model_validate({"dtype": dtype})
    export(network, folder.parent / "tokenizer", destination=folder, config=config)
    return network


def _change(folder: Path, name: str = "config.json", **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("tied", [True, False])
def test_export_read_back_is_the_same_model(folder, tied):
    network = _export(folder, tied=tied, rope_theta=500.0, norm_epsilon=1e-5)
    loaded = load_pretrained(folder)
    assert loaded.model.architecture == network.architecture
    ids = random_ids(2, 16, vocab_size=VOCAB_SIZE)
    assert torch.equal(loaded.model(ids), network(ids))
    assert loaded.stop_ids == {0, 2}
    assert loaded.sampling.temperature == 0.7


def test_folder_that_transformers_wrote_loads_too(folder):
    network = _export(folder)
    again = folder.parent / "again"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(again)
    (again / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    ids = random_ids(1, 16, vocab_size=VOCAB_SIZE)
    assert torch.equal(load_pretrained(again).model(ids), network(ids))


def test_bfloat16_export_computes_in_fp32(folder):
    network = _export(folder, dtype="bfloat16")
    loaded = load_pretrained(folder).model
    assert torch.equal(loaded.head_weight, network.head_weight.bfloat16().float())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads = 1"),
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type = 'yarn'"),
        ({"hidden_size": None}, "width"),
        ({"vocab_size": 500}, "parameters differ"),
        ({"num_hidden_layers": 3}, "model.layers.2"),
        ({"hidden_size": 32}, "parameters differ"),
    ],
)
def test_folder_of_another_network_is_refused(folder, changes, words):
    _export(folder)
    _change(folder, **changes)
    with pytest.raises(ArtifactError) as caught:
        load_pretrained(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tokenizer_of_another_vocabulary_is_refused(folder):
    _export(folder)
    other = TokenizerConfig(vocab_size=VOCAB_SIZE - 10)
    train_bpe(iter(SENTENCES * 3), config=other, destination=folder)
    with pytest.raises(TokenizerError, match="another tokenizer") as caught:
        load_pretrained(folder)
    assert str(VOCAB_SIZE - 10) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_folder_is_refused(folder, name, damage):
    _export(folder)
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LLMError) as caught:
        load_pretrained(folder)
    assert isinstance(caught.value, TokenizerError if name == "tokenizer.json" else ArtifactError)
    assert name in str(caught.value)


def test_sampling_comes_from_the_folder_where_it_recommends_one(folder):
    _export(folder)
    _change(folder, "generation_config.json", temperature=0.3, top_p=0.5, min_p=0.1)
    sampling = load_pretrained(folder).sampling
    assert (sampling.temperature, sampling.top_p, sampling.min_p) == (0.3, 0.5, 0.1)
    _change(folder, "generation_config.json", do_sample=False)
    assert load_pretrained(folder).sampling.temperature == 0
    _change(folder, "generation_config.json", do_sample=True, temperature=-1)
    with pytest.raises(ArtifactError, match="recommended sampling of an exported model is invalid"):
        load_pretrained(folder)
    (folder / "generation_config.json").unlink()
    assert load_pretrained(folder).sampling.temperature == 0.7
