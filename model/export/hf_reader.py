"""The exported folder read back: our own network from the files that other runtimes load.

Serving and MLflow start from a registered folder, which holds no file of training's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.config.network import Architecture
from model.core.errors import ArtifactError
from model.network.gpt import GPT
from model.network.weights import WEIGHTS_NAME, load_tensors

CONFIG_NAME = "config.json"
# What a Qwen3 may be and our network is not: setting -> the only value it knows.
KNOWN_VALUES: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}


def load_exported(folder: Path) -> GPT:
    """Return the model of an exported folder, in fp32 on the CPU.

    Raises:
        ArtifactError: a file is missing or broken, or is of another kind of model.
    """
    model = GPT(read_architecture(folder / CONFIG_NAME))
    load_tensors(model, folder / WEIGHTS_NAME)
    return model


def read_architecture(path: Path) -> Architecture:
    """Return the network that a ``config.json`` of ``model.export`` describes.

    Raises:
        ArtifactError: the file is missing or broken, or is of another kind of model.
    """
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
        _require_known_kind(settings, where=path)
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


def _require_known_kind(settings: dict[str, Any], *, where: Path) -> None:
    rope = settings.get("rope_parameters") or {}
    known = KNOWN_VALUES | {"num_key_value_heads": settings["num_attention_heads"]}
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
