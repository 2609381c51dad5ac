"""Load an exported folder: the network, its tokenizer, stop ids and recommended sampling.

Serving, the terminal and MLflow start from such a folder, which holds no file of the training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.config.network import Architecture
from model.core.errors import ArtifactError
from model.inference.sampling import Sampling
from model.network.gpt import GPT
from model.network.weights import WEIGHTS_NAME, load_tensors
from model.text.tokenizer import Tokenizer

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
# Settings of a Qwen3 that our network does not vary: setting -> the only value it supports.
SUPPORTED_VALUES: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}


@dataclass(frozen=True)
class PretrainedModel:
    """A model, its tokenizer, the ids that end a text, and the recommended sampling."""

    model: GPT
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    sampling: Sampling


def load_pretrained(folder: Path) -> PretrainedModel:
    """Return the model, tokenizer and sampling of an exported folder, in fp32 on the CPU."""
    tokenizer = Tokenizer.load(folder)
    model = load_exported(folder).eval().requires_grad_(requires_grad=False)
    tokenizer.require_vocab_size(model.architecture.vocab_size, where=folder)
    sampling = _sampling(folder / GENERATION_NAME)
    return PretrainedModel(model, tokenizer, tokenizer.stop_ids, sampling)


def load_exported(folder: Path) -> GPT:
    """Return the model of an exported folder, in fp32 on the CPU."""
    model = GPT(read_architecture(folder / CONFIG_NAME))
    load_tensors(model, folder / WEIGHTS_NAME)
    return model


def read_architecture(path: Path) -> Architecture:
    """Return the network that a ``config.json`` of ``model.export`` describes."""
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        _require_supported(settings, where=path)
        rope = settings.get("rope_parameters") or settings
        return Architecture(
            width=settings["hidden_size"],
            num_layers=settings["num_hidden_layers"],
            num_heads=settings["num_attention_heads"],
            head_dim=settings["head_dim"],
            mlp_width=settings["intermediate_size"],
            tied=settings["tie_word_embeddings"],
            vocab_size=settings["vocab_size"],
            context_tokens=settings["max_position_embeddings"],
            rope_theta=rope["rope_theta"],
            norm_epsilon=settings["rms_norm_eps"],
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            "an exported model cannot be read",
            expected=f"a {CONFIG_NAME} as export_model writes it",
            found=repr(exc),
            where=path,
            fix="export the model again: run its pipeline",
        ) from exc


def _require_supported(settings: dict[str, Any], *, where: Path) -> None:
    rope = settings.get("rope_parameters") or {}
    known = SUPPORTED_VALUES | {"num_key_value_heads": settings["num_attention_heads"]}
    found = {name: settings.get(name, value) for name, value in known.items()}
    known["rope_type"], found["rope_type"] = "default", rope.get("rope_type", "default")
    for name, value in known.items():
        if found[name] != value:
            raise ArtifactError(
                "the folder holds another kind of network",
                expected=f"{name} = {value!r}",
                found=f"{name} = {found[name]!r}",
                where=where,
                fix="name the folder of a model that this project exported",
            )


def _sampling(path: Path) -> Sampling:
    """Return the recommended sampling, with our defaults for what it leaves unset."""
    if not path.exists():
        return Sampling()
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        if settings.get("do_sample") is False:
            return Sampling(temperature=0)
        known = Sampling.model_fields.keys() & settings.keys()
        return Sampling.model_validate({name: settings[name] for name in known})
    except (OSError, ValueError, AttributeError, ValidationError) as exc:
        raise ArtifactError(
            "the recommended sampling of an exported model is invalid",
            expected=", ".join(Sampling.model_fields),
            found=exc,
            where=path,
            fix="export the model again, or delete this file to use the project's defaults",
        ) from exc
