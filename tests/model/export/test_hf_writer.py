"""model.export: transformers loads the folder as it is, with our logits, our text and our ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.config.runs import ExportRun
from model.config.trained_model import ExportConfig, SamplingConfig
from model.core.artifact import Derivation
from model.core.errors import ArtifactError, TamperedArtifactError, TokenizerError
from model.core.store import ArtifactStore
from model.export.hf_reader import load_exported
from model.export.hf_writer import export, main, make_export
from model.inference.generate import generate
from model.network.weights import save_model
from model.text.tokenizer import Tokenizer
from tests.support.small_model import random_ids, random_model, small_tokenizer
from tests.support.small_tokenizer import SENTENCES, VOCAB_SIZE


@pytest.fixture(scope="module")
def tokenizer_directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(directory)
    return directory


def _exported(directory: Path, tokenizer_directory: Path, *, dtype: str = "float32", **changes):
    network = random_model(vocab_size=VOCAB_SIZE, **changes)
    config = ExportConfig.model_validate({"dtype": dtype})
    export(network, tokenizer_directory, destination=directory, config=config)
    return network


@pytest.mark.parametrize("tied", [True, False])
def test_export_loads_in_transformers_with_equal_logits(tied, tmp_path, tokenizer_directory):
    network = _exported(tmp_path, tokenizer_directory, tied=tied, rope_theta=500.0)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: list(found) for name, found in report.items() if found} == {}
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    assert loaded.dtype == torch.float32
    assert loaded.config.tie_word_embeddings is tied
    ids = random_ids(2, 16, vocab_size=VOCAB_SIZE)
    assert (loaded(ids).logits - network(ids)).abs().max() <= 1e-4


def test_export_greedy_text_equals_ours(tmp_path, tokenizer_directory):
    network = _exported(tmp_path, tokenizer_directory)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tokenizer_directory)
    prompt = [ours.end_of_text_id, *ours.encode("The baker")]
    assert theirs("<|endoftext|>The baker")["input_ids"] == prompt
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    answer = loaded.generate(
        torch.tensor([prompt]),
        max_new_tokens=8,
        do_sample=False,
        temperature=None,
        top_k=None,
        top_p=None,
        repetition_penalty=1.0,
    )
    output_ids = generate(network, prompt, num_tokens=8, temperature=0.0, top_k=0, seed=1)
    assert answer[0, len(prompt) :].tolist() == output_ids
    assert theirs.decode(output_ids) == ours.decode(output_ids)


def test_export_tokenizer_in_transformers_gives_our_ids(tmp_path, tokenizer_directory):
    _exported(tmp_path, tokenizer_directory)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tokenizer_directory)
    for text in SENTENCES:
        assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs.eos_token_id == ours.end_of_text_id
    assert theirs.pad_token_id == ours.pad_id


def test_export_bfloat16_halves_the_weights(tmp_path, tokenizer_directory):
    network = _exported(tmp_path, tokenizer_directory, dtype="bfloat16")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    expected = network.head_weight.bfloat16()
    assert torch.equal(loaded.state_dict()["lm_head.weight"], expected)


def test_export_generation_stops_at_end_of_text_and_of_turn(tmp_path, tokenizer_directory):
    _exported(tmp_path, tokenizer_directory)
    settings = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    ours = Tokenizer.load(tokenizer_directory)
    stops = {ours.special_id("<|endoftext|>"), ours.special_id("<|im_end|>")}
    assert set(settings.eos_token_id) == stops
    assert settings.pad_token_id == ours.special_id("<|pad|>")
    sampling = SamplingConfig()
    assert settings.temperature == sampling.temperature == 0.7
    assert settings.top_p == sampling.top_p == 0.9
    assert settings.repetition_penalty == sampling.repetition_penalty == 1.1


def test_export_recommends_the_sampling_it_is_given(tmp_path, tokenizer_directory):
    sampling = SamplingConfig(temperature=0.4, repetition_penalty=1.0)
    export(
        random_model(vocab_size=VOCAB_SIZE),
        tokenizer_directory,
        destination=tmp_path,
        config=ExportConfig(sampling=sampling),
    )
    settings = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (settings.temperature, settings.repetition_penalty) == (0.4, 1.0)


def test_exported_folder_read_back_is_our_model(tmp_path, tokenizer_directory):
    for dtype, tied in (("float32", True), ("bfloat16", False)):
        network = _exported(tmp_path / dtype, tokenizer_directory, dtype=dtype, tied=tied)
        loaded = load_exported(tmp_path / dtype)
        assert loaded.architecture == network.architecture
        stored = network.to(torch.bfloat16) if dtype == "bfloat16" else network
        for name, value in loaded.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, stored.state_dict()[name].float())


def test_exported_folder_of_another_kind_is_refused(tmp_path, tokenizer_directory):
    with pytest.raises(ArtifactError, match="exported model cannot be read"):
        load_exported(tmp_path)
    _exported(tmp_path, tokenizer_directory)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ArtifactError, match="head_dim"):
        load_exported(tmp_path)


def test_export_without_gguf_and_card_writes_neither(tmp_path, tokenizer_directory):
    network = random_model(vocab_size=VOCAB_SIZE)
    export(network, tokenizer_directory, destination=tmp_path, config=ExportConfig(gguf="none"))
    assert not {"model.gguf", "README.md"} & {path.name for path in tmp_path.iterdir()}


def test_export_tokenizer_of_another_vocabulary_is_refused(tmp_path, tokenizer_directory):
    with pytest.raises(TokenizerError, match="made for another tokenizer") as caught:
        export(random_model(), tokenizer_directory, destination=tmp_path, config=ExportConfig())
    assert "96" in str(caught.value)
    assert str(VOCAB_SIZE) in str(caught.value)


def test_export_incomplete_tokenizer_is_refused(tmp_path, tokenizer_directory):
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    definition = (tokenizer_directory / "tokenizer.json").read_bytes()
    (incomplete / "tokenizer.json").write_bytes(definition)
    with pytest.raises(TokenizerError, match="lacks a file") as caught:
        _exported(tmp_path / "folder", incomplete)
    assert "no tokenizer_config.json" in str(caught.value)


def test_export_of_a_tampered_model_is_refused(tmp_path, tokenizer_directory, caplog):
    store = ArtifactStore(tmp_path)
    network = random_model(vocab_size=VOCAB_SIZE)
    trained = store.build(
        Derivation(stage="train_model", name="base", version=1),
        lambda work: save_model(network, work.path / "model"),
    ).artifact
    (tmp_path / "tokenizer").symlink_to(tokenizer_directory)
    derivation = Derivation(
        stage="export_model", name="base", version=1, inputs={"model": (trained,)}
    )
    run = ExportRun(
        data_root=str(tmp_path),
        derivation=derivation,
        model=f"{trained.relative_path}/model",
        tokenizer="tokenizer",
        export=ExportConfig(),
    )
    config = tmp_path / "config.json"
    config.write_text(run.model_dump_json())
    weights = store.path(trained) / "model" / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1  # the last bit of the last weight: still a readable file of the same size
    weights.write_bytes(whole)
    with pytest.raises(TamperedArtifactError, match="sha256 mismatch") as caught:
        make_export(config)
    assert "model.safetensors" in str(caught.value)
    assert not store.path(derivation.artifact).exists()
    assert main(["--config", str(config)]) == 1
    assert "sha256 mismatch" in caplog.text
    assert "sha256 mismatch" in (tmp_path / "result.json").read_text()


def test_main_makes_an_artifact_whose_folder_loads(tmp_path, tokenizer_directory):
    network = random_model(vocab_size=VOCAB_SIZE)
    save_model(network, tmp_path / "trained")
    (tmp_path / "tokenizer").symlink_to(tokenizer_directory)
    derivation = Derivation(stage="export_model", name="base", version=1)
    run = ExportRun(
        data_root=str(tmp_path),
        derivation=derivation,
        model="trained",
        tokenizer="tokenizer",
        export=ExportConfig(),
        card="# A model\n",
    )
    store = ArtifactStore(tmp_path)
    work = store.work_path(derivation.artifact)
    work.mkdir(parents=True)
    (work / "config.json").write_text(run.model_dump_json())
    assert main(["--config", str(work / "config.json")]) == 0

    manifest = store.verify(derivation.artifact)
    assert manifest.counts == {"parameters": network.num_params()}
    content = {entry.path for entry in manifest.files if entry.role == "content"}
    assert content == {
        f"model/{name}"
        for name in (
            "config.json",
            "generation_config.json",
            "README.md",
            "model.gguf",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        )
    }
    folder = store.path(derivation.artifact) / "model"
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    ids = random_ids(1, 16, vocab_size=VOCAB_SIZE)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(loaded(ids).logits, network(ids), atol=1e-4)
