"""An exported folder as something that writes: model, tokenizer, what ends a text, usual sampling.

Servers and terminals start here; ``model.export.hf_reader`` reads the network alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.core.errors import ArtifactError
from model.export.hf_reader import load_exported
from model.inference.sampling import Sampling
from model.network.gpt import GPT
from model.text.tokenizer import IM_END, Tokenizer

GENERATION_NAME = "generation_config.json"


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
    tokenizer = Tokenizer.load(folder)
    model = load_exported(folder).eval().requires_grad_(requires_grad=False)
    vocab_size = model.architecture.vocab_size
    if tokenizer.vocab_size != vocab_size:
        raise ArtifactError(
            "the tokenizer is of another vocabulary than the model",
            expected=f"a vocabulary of {vocab_size}, the model's",
            found=f"a vocabulary of {tokenizer.vocab_size}",
            where=folder,
            fix="do not mix files of two models; export the model again",
        )
    ends = frozenset({tokenizer.end_of_text_id, tokenizer.special_id(IM_END)})
    return Pretrained(model, tokenizer, ends, _sampling(folder / GENERATION_NAME))


def _sampling(path: Path) -> Sampling:
    """Return the sampling a folder recommends, ours for what it leaves open."""
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
            "the sampling an exported model recommends cannot be used",
            expected=", ".join(Sampling.model_fields),
            found=exc,
            where=path,
            fix="export the model again, or delete this file: the project's defaults are taken",
        ) from exc
