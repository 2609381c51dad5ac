"""An exported model read back: the folder that ``model.export`` writes, as a model that writes.

    config.json, model.safetensors         a Qwen3ForCausalLM with as many key heads as heads
    tokenizer.json                         ours
    generation_config.json                 optional: what ends a text, and the usual sampling

The same folder is what transformers, vLLM and converters load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.config import Architecture
from model.errors import ArtifactError
from model.gpt import GPT
from model.sampling import Sampling
from model.tokenizer import IM_END, Tokenizer
from model.weights import WEIGHTS_NAME

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
# Settings of Qwen3 that change what it computes, and the only value our network knows.
REQUIRED: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}


@dataclass(frozen=True)
class Pretrained:
    """A model, its tokenizer, and how its folder says it is to be used."""

    model: GPT
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    sampling: Sampling


def load_pretrained(folder: Path) -> Pretrained:
    """Return the model of an exported folder, in fp32 on the CPU.

    Raises:
        ArtifactError: a file is missing or broken, the network is of another kind than ours, or
            weights, settings and tokenizer do not fit each other.
        TokenizerError: the tokenizer is missing or broken.
    """
    architecture = _architecture(_read_json(folder / CONFIG_NAME), where=folder / CONFIG_NAME)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != architecture.vocab_size:
        raise _unfit(
            "the tokenizer is of another vocabulary than the model",
            expected=f"a vocabulary of {architecture.vocab_size}, the model's",
            found=f"a vocabulary of {tokenizer.vocab_size}",
            where=folder,
        )
    model = _model(architecture, folder / WEIGHTS_NAME)
    ends = frozenset({tokenizer.end_of_text_id, tokenizer.special_id(IM_END)})
    return Pretrained(model, tokenizer, ends, _sampling(folder / GENERATION_NAME))


def _architecture(settings: dict[str, Any], *, where: Path) -> Architecture:
    for name, value in REQUIRED.items():
        if settings.get(name, value) != value:
            raise _unfit(
                "the folder holds another kind of network",
                expected=f"{name} = {value!r}",
                found=f"{name} = {settings[name]!r}",
                where=where,
            )
    rope = settings.get("rope_parameters") or {"rope_type": "default"}
    fields = {
        "width": settings.get("hidden_size"),
        "num_layers": settings.get("num_hidden_layers"),
        "num_heads": settings.get("num_attention_heads"),
        "head_dim": settings.get("head_dim"),
        "mlp_width": settings.get("intermediate_size"),
        "tied": settings.get("tie_word_embeddings"),
        "vocab_size": settings.get("vocab_size"),
        "context_tokens": settings.get("max_position_embeddings"),
        "rope_theta": rope.get("rope_theta", settings.get("rope_theta")),
        "norm_epsilon": settings.get("rms_norm_eps"),
    }
    shares_keys = settings.get("num_key_value_heads") != settings.get("num_attention_heads")
    if shares_keys or rope.get("rope_type") != "default":
        raise _unfit(
            "the folder holds another kind of network",
            expected="as many key-value heads as heads, and plain rotary positions",
            found=f"num_key_value_heads = {settings.get('num_key_value_heads')}, "
            f"rope_type = {rope.get('rope_type')!r}",
            where=where,
        )
    try:
        return Architecture.model_validate(fields)
    except ValidationError as exc:
        raise _unfit(
            "the settings of a model are incomplete", expected="", found=exc, where=where
        ) from exc


def _model(architecture: Architecture, path: Path) -> GPT:
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as exc:
        raise _unfit(
            "the weights cannot be read", expected=f"{WEIGHTS_NAME}", found=exc, where=path
        ) from exc
    if architecture.tied:
        tensors.pop("lm_head.weight", None)  # some writers store the shared table twice
    with torch.device("meta"):
        model = GPT(architecture)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        raise _unfit(
            "the weights do not fit the settings beside them",
            expected=f"{wrong[0]} of shape {expected.get(wrong[0], 'none: no such parameter')}",
            found=f"shape {found.get(wrong[0], 'none')}; {len(wrong)} parameters differ",
            where=path,
        )
    model = GPT(architecture)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(requires_grad=False)


def _sampling(path: Path) -> Sampling:
    """Return the sampling a folder recommends, ours for what it leaves open."""
    if not path.exists():
        return Sampling()
    settings = _read_json(path)
    if settings.get("do_sample") is False:
        return Sampling(temperature=0)
    known = {name: settings[name] for name in Sampling.model_fields if name in settings}
    try:
        return Sampling.model_validate(known)
    except ValidationError as exc:
        raise _unfit(
            "the sampling a model recommends is impossible",
            expected=", ".join(Sampling.model_fields),
            found=exc,
            where=path,
        ) from exc


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise _unfit(
            "a file of an exported model is missing or cannot be read",
            expected=f"{path.name} as model.export writes it",
            found=exc,
            where=path,
        ) from exc
    return settings if isinstance(settings, dict) else {}


def _unfit(problem: str, *, expected: object, found: object, where: Path) -> ArtifactError:
    return ArtifactError(
        problem,
        expected=expected,
        found=found,
        where=where,
        fix="name the folder of a model exported by this project, or export the model again",
    )
