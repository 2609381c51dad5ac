"""model.eval: a process turns a model and held-out rows into scores.json, or says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from model.config.outputs import ScoreModelCounts, ScoreModelOutputs
from model.config.runs import ErrorReport, ScoreRun
from model.config.trained_model import ScoreConfig
from model.core.artifact import Derivation
from model.core.errors import ConfigError, TokenizerError
from model.core.store import ArtifactStore
from model.data.items import Item, write_items
from model.data.prompts import Prompt, read_generations, write_prompts
from model.data.shards import ShardSet
from model.eval.__main__ import Scores, generate_samples, main, score, weights_directory
from model.eval.multiple_choice import score_items, summarise
from model.eval.validation import evaluate
from model.inference.generate import generate
from model.network.weights import load_model, save_model
from model.text.chat_template import Message
from model.text.tokenizer import IM_END, Tokenizer
from tests.support.small_model import random_model, small_shards, small_tokenizer
from tests.support.small_tokenizer import VOCAB_SIZE

CONTEXT_TOKENS = 16
CONFIG = ScoreConfig(prompts=("The baker", ""), sample_tokens=6)
DERIVATION = Derivation(stage="score_model", name="base", version=1, config=CONFIG.semantic())


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    small_shards(tmp_path / "validation", tokenizer, context_tokens=CONTEXT_TOKENS)
    save_model(random_model(vocab_size=tokenizer.vocab_size), tmp_path / "model")
    return tmp_path


def _write_config(root: Path, **changes: object) -> Path:
    """Write a run's config where the flow does: into the artifact's work directory."""
    fields = {"model": "model", "tokenizer": "tokenizer", "validation": "validation"} | changes
    run = ScoreRun.model_validate(
        {"data_root": str(root), "derivation": DERIVATION, "score": CONFIG, **fields}
    )
    work = ArtifactStore(root).work_path(DERIVATION.artifact)
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.json").write_text(run.model_dump_json())
    return work / "config.json"


def _parts(root: Path):
    tokenizer = Tokenizer.load(root / "tokenizer")
    return (
        load_model(root / "model"),
        tokenizer,
        ShardSet(root / "validation", context_tokens=CONTEXT_TOKENS),
    )


def test_score_holds_the_evaluation_and_a_text_per_prompt(data_root):
    network, tokenizer, shards = _parts(data_root)
    scores = score(network, tokenizer, shards, config=CONFIG)
    expected = evaluate(network, shards, tokenizer.bytes_per_token)
    assert scores.validation_loss == expected.loss
    assert scores.bits_per_byte == expected.bits_per_byte
    assert (scores.num_tokens, scores.num_bytes) == (expected.num_targets, expected.num_bytes)
    assert [sample.prompt for sample in scores.samples] == ["The baker", ""]


def test_generate_samples_continue_the_prompt_as_a_document(data_root):
    network, tokenizer, _ = _parts(data_root)
    greedy = CONFIG.model_copy(update={"temperature": 0.0, "prompts": ("The",)})
    (sample,) = generate_samples(network, tokenizer, config=greedy)
    ids = [tokenizer.end_of_text_id, *tokenizer.encode("The")]
    text = []
    for _ in range(greedy.sample_tokens):
        ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
        text.append(ids[-1])
    assert sample.text == tokenizer.decode(text)


def test_score_shards_of_another_tokenizer_are_refused(data_root):
    network, tokenizer, _ = _parts(data_root)
    small_shards(
        data_root / "foreign", tokenizer, context_tokens=CONTEXT_TOKENS, fingerprint="f" * 64
    )
    foreign = ShardSet(data_root / "foreign", context_tokens=CONTEXT_TOKENS)
    with pytest.raises(ConfigError, match="shards were made with another tokenizer") as caught:
        score(network, tokenizer, foreign, config=CONFIG)
    assert tokenizer.fingerprint in str(caught.value)


def test_score_model_of_another_vocabulary_is_refused(data_root):
    _, tokenizer, shards = _parts(data_root)
    with pytest.raises(TokenizerError, match="model was made for another tokenizer") as caught:
        score(random_model(vocab_size=500), tokenizer, shards, config=CONFIG)
    assert "a vocabulary of 500" in str(caught.value)


def test_main_makes_the_artifact_once(data_root):
    config_path = _write_config(data_root)
    done = subprocess.run(
        [sys.executable, "-m", "model.eval", "--config", str(config_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    store = ArtifactStore(data_root)
    manifest = store.verify(DERIVATION.artifact)
    directory = store.path(DERIVATION.artifact)
    scores = Scores.model_validate_json((directory / "scores.json").read_bytes())
    assert ScoreModelOutputs.facts_of(manifest).bits_per_byte == scores.bits_per_byte
    assert ScoreModelOutputs.counts_of(manifest) == ScoreModelCounts(
        tokens=scores.num_tokens, bytes=scores.num_bytes
    )
    assert {entry.path: entry.role for entry in manifest.files} == {
        "config.json": "log",
        "scores.json": "content",
    }
    assert main(["--config", str(directory / "config.json")]) == 0
    assert store.read_manifest(DERIVATION.artifact) == manifest


def test_main_scores_items_and_generates_texts(data_root):
    tokenizer = Tokenizer.load(data_root / "tokenizer")
    items = [
        Item("piqa", "", "", 0, ("The cat",), ("sat", "barked"), 0),
        Item("lambada", "", "", 0, ("The cat",), ("sat",), 0),
    ]
    prompts = [
        Prompt(kind="question", text="The cat", expected="sat"),
        Prompt(kind="opening", messages=(Message(role="user", content="Hi"),)),
        Prompt(kind="opening", text="In 1984"),
    ]
    (data_root / "inputs").mkdir()
    write_items(data_root / "inputs" / "items.parquet", items)
    write_prompts(data_root / "inputs" / "prompts.parquet", prompts)
    assert main(["--config", str(_write_config(data_root, items="inputs", prompts="inputs"))]) == 0
    store = ArtifactStore(data_root)
    manifest, directory = store.verify(DERIVATION.artifact), store.path(DERIVATION.artifact)
    network = load_model(data_root / "model")
    piqa, lambada = summarise(score_items(network, tokenizer, items))
    assert ScoreModelOutputs.facts_of(manifest).scores["piqa_acc_norm"] == piqa.acc_norm
    assert ScoreModelOutputs.facts_of(manifest).scores["lambada_perplexity"] == lambada.perplexity
    assert ScoreModelOutputs.facts_of(manifest).items_digests["piqa"] == piqa.items_digest
    assert ScoreModelOutputs.counts_of(manifest).extras["piqa_items"] == 1
    rows = pq.read_table(directory / "item_scores.parquet").to_pylist()
    assert [row["task"] for row in rows] == ["piqa", "lambada"]
    generations = read_generations(directory / "generations.parquet")
    assert [item.kind for item in generations] == ["question", "opening", "opening"]
    assert [item.style for item in generations] == ["text", "chat", "text"]
    ids = [tokenizer.end_of_text_id, *tokenizer.encode("The cat")]
    greedy = generate(
        network, ids, num_tokens=CONFIG.answer_tokens, temperature=0, top_k=0, seed=0,
        stop_ids={tokenizer.end_of_text_id, tokenizer.special_id(IM_END)},
    )  # fmt: skip
    whole, text = tokenizer.decode(greedy), generations[0].text
    assert whole.startswith(text)
    assert text == whole or "\n" in text.lstrip()


def test_weights_directory_names_kept_checkpoints(tmp_path):
    for step, loss in ((10, 2.0), (20, 1.0), (30, 3.0)):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
        (tmp_path / f"checkpoints/step-{step:08d}/validation.json").write_text(json.dumps(loss))
    model = tmp_path / "model"
    assert weights_directory(model, "final") == (model, None)
    assert weights_directory(model, "best") == (tmp_path / "checkpoints/step-00000020", 20)
    assert weights_directory(model, "last")[1] == 30
    assert weights_directory(model, 10)[1] == 10
    with pytest.raises(ConfigError, match="checkpoint to score does not exist") as caught:
        weights_directory(model, 15)
    assert "10, 20, 30" in str(caught.value)
    with pytest.raises(ConfigError, match="a kept step: none"):
        weights_directory(tmp_path / "elsewhere" / "model", "best")


def test_main_scores_a_checkpoint_beside_the_model(data_root):
    kept = data_root / "checkpoints" / "step-00000007"
    save_model(random_model(seed=2, vocab_size=VOCAB_SIZE), kept)
    assert main(["--config", str(_write_config(data_root, checkpoint=7))]) == 0
    facts = ScoreModelOutputs.facts_of(ArtifactStore(data_root).verify(DERIVATION.artifact))
    _, tokenizer, shards = _parts(data_root)
    expected = evaluate(load_model(kept), shards, tokenizer.bytes_per_token)
    assert facts.bits_per_byte == expected.bits_per_byte
    assert facts.checkpoint_step == 7


def test_main_failure_is_reported_beside_the_config_and_fixed_by_another_run(data_root):
    config_path = _write_config(data_root, model="gone")
    assert main(["--config", str(config_path)]) == 1
    result = json.loads((config_path.parent / "result.json").read_bytes())
    error = ErrorReport.model_validate(result["error"])
    assert result["state"] == "failed"
    assert error.type == "ArtifactError"
    assert error.where == str(data_root / "gone" / "architecture.json")
    assert main(["--config", str(_write_config(data_root))]) == 0
    assert not (ArtifactStore(data_root).path(DERIVATION.artifact) / "result.json").exists()


def test_main_unknown_setting_is_refused(data_root, caplog):
    config_path = _write_config(data_root)
    fields = json.loads(config_path.read_text()) | {"colour": "blue"}
    config_path.write_text(json.dumps(fields))
    assert main(["--config", str(config_path)]) == 1
    assert "fields of ScoreRun" in caplog.text
    assert "colour" in caplog.text
