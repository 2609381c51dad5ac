"""gguf_writer: llama.cpp reads the file with our ids, our logits, our text, our template."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.config.trained_model import ExportConfig, SamplingConfig
from model.core.errors import ConfigError
from model.export.gguf_writer import GGUF_NAME, without_generation_marks, write_gguf
from model.export.hf_writer import export
from model.inference.generate import generate
from model.network.gpt import GPT
from model.text.chat_template import CHAT_TEMPLATE, Message, render
from model.text.tokenizer import END_OF_TEXT, Tokenizer
from tests.support.small_model import random_ids, random_model, small_tokenizer
from tests.support.small_tokenizer import HOSTILE_TEXTS, SENTENCES, VOCAB_SIZE

ROOT = Path(__file__).parents[3]
LIBRARIES = ROOT / ".venv" / "llama"
NUM_GREEDY = 64
PROBE = "\n".join((*HOSTILE_TEXTS, *SENTENCES))
EXAMPLE = (  # llama.cpp's own
    Message(role="system", content="You are a helpful assistant"),
    Message(role="user", content="Hello"),
    Message(role="assistant", content="Hi there"),
    Message(role="user", content="How are you?"),
)


@pytest.fixture(scope="module")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(directory)
    return directory


def exported(folder: Path, tokenizer_directory: Path, *, kind: str = "float32", **changes) -> GPT:
    network = random_model(vocab_size=VOCAB_SIZE, context_tokens=256, **changes)
    config = ExportConfig.model_validate({"gguf": kind})
    export(network, tokenizer_directory, destination=folder, config=config)
    return network


def ask_llama(folder: Path, **request: Any) -> dict[str, Any]:
    """Return llama.cpp's answer about the file of a folder, or skip."""
    if not (LIBRARIES / "libggml-base.so").exists():
        pytest.skip("needs llama.cpp's libraries: `make llama` (Linux, x64)")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/support/llama_peer.py"),
            str(LIBRARIES),
            str(folder / GGUF_NAME),
        ],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("tied", [True, False])
def test_gguf_in_llama_cpp_has_our_logits(
    tied: bool, tmp_path: Path, tokenizer_directory: Path
) -> None:
    network = exported(tmp_path, tokenizer_directory, tied=tied, rope_theta=500.0, num_layers=3)
    ids = random_ids(1, 40, vocab_size=VOCAB_SIZE)
    answer = ask_llama(tmp_path, ids=ids[0].tolist())
    ours = network(ids)[0].detach()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits[0].detach()
    assert ours.std() > 0.5  # there is something to compare
    for reference in (ours, theirs):
        assert (torch.tensor(answer["logits"]) - reference).abs().max() <= 1e-4
        assert (torch.tensor(answer["last_logits"]) - reference[-1]).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_gguf_of_half_precision_is_near_in_llama_cpp(
    kind: str, tmp_path: Path, tokenizer_directory: Path
) -> None:
    network = exported(tmp_path, tokenizer_directory, kind=kind)
    ids = random_ids(1, 8, vocab_size=VOCAB_SIZE)
    found = torch.tensor(ask_llama(tmp_path, ids=ids[0].tolist())["logits"])
    ours = network(ids)[0].detach()
    assert torch.corrcoef(torch.stack((found.flatten(), ours.flatten())))[0, 1] > 0.999


def test_gguf_in_llama_cpp_writes_our_greedy_text(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    network = exported(tmp_path, tokenizer_directory)
    tokenizer = Tokenizer.load(tokenizer_directory)
    prompt = [tokenizer.end_of_text_id, *tokenizer.encode("The baker")]
    answer = ask_llama(tmp_path, prompt=prompt, num_tokens=NUM_GREEDY)
    ours = generate(network, prompt, num_tokens=NUM_GREEDY, temperature=0.0, top_k=0, seed=1)
    assert answer["output"] == ours
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = loaded.generate(
        torch.tensor([prompt]),
        max_new_tokens=NUM_GREEDY,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
        eos_token_id=-1,
    )
    assert theirs[0, len(prompt) :].tolist() == ours
    assert len(set(ours)) > 5  # no constant text


def test_ids_of_hostile_texts_are_equal_in_three_runtimes(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    exported(tmp_path, tokenizer_directory)
    ours = Tokenizer.load(tokenizer_directory)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*HOSTILE_TEXTS, *SENTENCES, PROBE]
    answer = ask_llama(tmp_path, texts=texts)
    for text, found in zip(texts, answer["texts"], strict=True):
        expected = ours.encode(text)
        assert found == expected, repr(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == expected
    assert answer["with_bos"] == [ours.end_of_text_id, *ours.encode("x")]


def test_conversation_is_rendered_alike_in_three_runtimes(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    exported(tmp_path, tokenizer_directory)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = render(EXAMPLE, add_generation_prompt=True)
    plain = [turn.model_dump() for turn in EXAMPLE]
    apply = partial(theirs.apply_chat_template, plain, add_generation_prompt=True)
    assert apply(tokenize=False) == text
    ids = apply(tokenize=True)["input_ids"]
    answer = ask_llama(tmp_path, rendered=text)
    # It takes off the first token of what it renders where it adds the same one when it encodes.
    assert END_OF_TEXT + answer["example"] == text
    assert answer["rendered"] == ids


def test_gguf_without_llama_cpp_holds_names_types_and_defaults(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    network = exported(tmp_path, tokenizer_directory, kind="bfloat16")
    reader = gguf.GGUFReader(tmp_path / GGUF_NAME)
    values = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = Tokenizer.load(tokenizer_directory)
    assert values["general.architecture"] == "qwen3"
    assert values["qwen3.attention.key_length"] == network.architecture.head_dim
    assert values["tokenizer.ggml.model"] == "gpt2"
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert values["tokenizer.ggml.tokens"] == tokenizer.tokens
    assert values["tokenizer.ggml.eot_token_id"] == tokenizer.special_id("<|im_end|>")
    assert values["tokenizer.ggml.padding_token_id"] == tokenizer.pad_id
    assert values["tokenizer.ggml.token_type"][:33] == [3] * 32 + [1]
    assert values["general.sampling.top_p"] == pytest.approx(SamplingConfig().top_p)
    tensors = {item.name: item for item in reader.tensors}
    assert len(tensors) == len(network.state_dict())
    assert tensors["blk.1.attn_q.weight"].tensor_type.name == "BF16"
    assert tensors["blk.1.attn_q_norm.weight"].tensor_type.name == "F32"
    norm = network.state_dict()["model.norm.weight"].numpy()
    np.testing.assert_array_equal(tensors["output_norm.weight"].data, norm)


def test_template_in_gguf_needs_no_generation_tag() -> None:
    plain = without_generation_marks(CHAT_TEMPLATE)
    assert "generation %" not in plain
    assert "endgeneration" not in plain
    assert "add_generation_prompt" in plain


def test_gguf_of_an_unknown_parameter_is_refused(tmp_path: Path, tokenizer_directory: Path) -> None:
    network = random_model(vocab_size=VOCAB_SIZE)
    with pytest.raises(ConfigError, match="no name in a GGUF file") as caught:
        write_gguf(
            {"model.layers.0.gate": torch.ones(3)},
            network.architecture,
            Tokenizer.load(tokenizer_directory),
            chat_template="",
            sampling=SamplingConfig(),
            dtype="float32",
            path=tmp_path / "model.gguf",
        )
    assert "model.layers.0.gate" in str(caught.value)
