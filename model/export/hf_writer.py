"""Export a model to a folder that stock runtimes load without custom code.

    python -m model.export --config <work>/config.json

    model.safetensors, config.json, generation_config.json    a Qwen3ForCausalLM
    tokenizer.json, tokenizer_config.json                     as the tokenizer stage wrote them
    model.gguf                                                the same for llama.cpp
    README.md                                                 the model card, if any

``config.json`` is also the name of this process's own config, so the folder is ``model/`` in the
artifact. One process; the config is an ``ExportRun``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.config.network import Architecture
from model.config.outputs import ExportModelCounts, ExportModelFacts, ExportModelOutputs
from model.config.runs import ExportRun
from model.config.trained_model import ExportConfig, SamplingConfig
from model.core.errors import TokenizerError
from model.core.files import write_synced
from model.core.store import Work
from model.export.gguf_writer import GGUF_NAME, write_gguf
from model.network.gpt import GPT, TIED_EMBEDDING_STD
from model.network.weights import WEIGHTS_NAME, load_model, save_tensors
from model.runtime.child_process import make_artifact, parse_config_path, run_child, verify_inputs
from model.text.tokenizer import IM_END, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer

CARD_NAME = "README.md"
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)


def export(
    model: GPT,
    tokenizer_directory: Path,
    *,
    destination: Path,
    config: ExportConfig,
    card: str = "",
) -> None:
    """Write a model, its tokenizer and its ``card``, if any, as one folder."""
    tokenizer = Tokenizer.load(tokenizer_directory)
    tokenizer.require_vocab_size(model.architecture.vocab_size, where=tokenizer_directory)
    destination.mkdir(parents=True, exist_ok=True)
    _copy_tokenizer(tokenizer_directory, destination)
    settings = network_settings(model.architecture, tokenizer, dtype=config.dtype)
    _write_json(destination / "config.json", settings)
    generation = generation_settings(tokenizer, config.sampling)
    _write_json(destination / "generation_config.json", generation)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    tensors = model.state_dict()  # the names are transformers' of a Qwen3; tied ones come once
    save_tensors(tensors, destination / WEIGHTS_NAME, dtype=dtype)
    if config.gguf != "none":
        tokenizer_config = json.loads((destination / TOKENIZER_CONFIG_FILE).read_bytes())
        write_gguf(
            tensors,
            model.architecture,
            tokenizer,
            chat_template=tokenizer_config["chat_template"],
            sampling=config.sampling,
            dtype=config.gguf,
            path=destination / GGUF_NAME,
        )
    if card:
        write_synced(destination / CARD_NAME, card.encode())


def network_settings(
    architecture: Architecture, tokenizer: Tokenizer, *, dtype: str
) -> dict[str, Any]:
    """Return the ``config.json`` of a Qwen3 model.

    Rotary base and dtype are given twice: transformers 5 reads the newer names, older releases and
    converters the others.
    """
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.mlp_width,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_heads,
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": architecture.context_tokens,
        "rms_norm_eps": architecture.norm_epsilon,
        "rope_theta": architecture.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_theta},
        "tie_word_embeddings": architecture.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "initializer_range": TIED_EMBEDDING_STD,
        "use_cache": True,
        "bos_token_id": tokenizer.end_of_text_id,
        "eos_token_id": tokenizer.end_of_text_id,
        "pad_token_id": tokenizer.pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def generation_settings(tokenizer: Tokenizer, sampling: SamplingConfig) -> dict[str, Any]:
    """Return the ``generation_config.json``: stop ids of text and turn, and sampling."""
    return {
        "bos_token_id": tokenizer.end_of_text_id,
        "eos_token_id": [tokenizer.special_id(IM_END), tokenizer.end_of_text_id],
        "pad_token_id": tokenizer.pad_id,
        "do_sample": True,
        **sampling.model_dump(),  # transformers has the same names
    }


def _copy_tokenizer(source: Path, destination: Path) -> None:
    try:
        for name in TOKENIZER_FILES:
            shutil.copyfile(source / name, destination / name)
    except FileNotFoundError as exc:
        raise TokenizerError(
            "the tokenizer lacks a file that other runtimes need",
            expected=", ".join(TOKENIZER_FILES),
            found=f"no {Path(exc.filename).name}",
            where=source,
            fix="delete the tokenizer's artifact and let train_tokenizer run again",
        ) from exc


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    write_synced(path, (json.dumps(settings, indent=2) + "\n").encode())


def make_export(config_path: Path) -> None:
    """Make the artifact that an ``ExportRun`` file describes."""
    run = ExportRun.load(config_path)

    def body(work: Work) -> None:
        verify_inputs(run)
        model = load_model(run.path(run.model))
        destination = ExportModelOutputs(work.path).folder
        export(
            model,
            run.path(run.tokenizer),
            destination=destination,
            config=run.export,
            card=run.card,
        )
        ExportModelOutputs.record(
            work,
            ExportModelCounts(parameters=model.num_params()),
            ExportModelFacts(
                dtype=run.export.dtype, gguf=run.export.gguf, directory=destination.name
            ),
        )

    make_artifact(run, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model a config file names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return run_child(parse_config_path(arguments, description=__doc__), make_export)
