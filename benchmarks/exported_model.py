"""A model of any size to measure speed with: random weights, a tokenizer of invented words."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from model.config.network import ModelConfig, ModelSize
from model.config.trained_model import ExportConfig
from model.export.hf_writer import export
from model.network.gpt import GPT
from tasks.config.corpus import TokenizerConfig
from tasks.tokens.bpe import train_bpe

NUM_DOCUMENTS, WORDS_PER_DOCUMENT = 3000, 100
SHARPNESS = 6.4  # logits of a standard deviation of 3.5: an entropy like a trained model's
LETTERS = "etaoinshrdlucmfwypvbgk"


@contextmanager
def exported_model(size: ModelSize = "27m", *, vocab_size: int = 32_768) -> Iterator[Path]:
    """Write an exported model to a temporary folder and yield it."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer, folder = Path(directory) / "tokenizer", Path(directory) / "model"
        train_bpe(
            _documents(), config=TokenizerConfig(vocab_size=vocab_size), destination=tokenizer
        )
        model = GPT(ModelConfig(size=size).architecture(vocab_size))
        model.init_weights(1)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
            model.model.norm.weight.mul_(SHARPNESS)
        export(model, tokenizer, destination=folder, config=ExportConfig(gguf="none"))
        yield folder


def _documents() -> Iterator[str]:
    words = random.Random(1)
    for _ in range(NUM_DOCUMENTS):
        yield " ".join(
            "".join(words.choices(LETTERS, k=words.randint(3, 9)))
            for _ in range(WORDS_PER_DOCUMENT)
        )
