"""A small model, tokenizer and shard set for tests, and the independent Qwen3 beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from model.config.defaults import with_defaults
from model.config.network import Architecture
from model.config.train import TrainConfig
from model.data.rows import Segments, write_rows
from model.data.shards import ShardHeader, write_shard
from model.network.gpt import GPT
from model.text.tokenizer import Tokenizer
from tests.support.small_tokenizer import SENTENCES, train_small_tokenizer


def small_architecture(**changes: object) -> Architecture:
    fields: dict[str, object] = {
        "width": 24,
        "num_layers": 2,
        "num_heads": 3,
        "head_dim": 16,  # heads together are wider than the stream, as Qwen3 allows
        "mlp_width": 40,
        "tied": True,
        "vocab_size": 96,
        "context_tokens": 16,
        "rope_theta": 10_000.0,
        "norm_epsilon": 1e-6,
    }
    return Architecture.model_validate(fields | changes)


def random_model(seed: int = 1, **changes: object) -> GPT:
    """A model in which every parameter matters: none is zero, no norm weight is one."""
    model = GPT(small_architecture(**changes))
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def resolved(model: GPT, **train: object) -> TrainConfig:
    """A training config of 10 steps with every default of the model filled."""
    return with_defaults(TrainConfig.model_validate({"steps": 10} | train), model.architecture)


def random_ids(*shape: int, seed: int = 1, vocab_size: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, shape, generator=generator)


def reference_of(model: GPT) -> Qwen3ForCausalLM:
    """The transformers model of the same weights."""
    a = model.architecture
    config = Qwen3Config(
        vocab_size=a.vocab_size,
        hidden_size=a.width,
        intermediate_size=a.mlp_width,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_heads,
        num_key_value_heads=a.num_heads,
        head_dim=a.head_dim,
        max_position_embeddings=a.context_tokens,
        rms_norm_eps=a.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        tie_word_embeddings=a.tied,
        attention_bias=False,
    )
    reference = Qwen3ForCausalLM(config)
    weights = dict(model.state_dict())
    if a.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    reference.load_state_dict(weights)
    return reference


def small_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(train_small_tokenizer(directory))


def small_shards(
    directory: Path, tokenizer: Tokenizer, *, context_tokens: int, fingerprint: str | None = None
) -> list[int]:
    """Write a shard set of one shard and return its flat tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    docs = [[tokenizer.end_of_text_id, *ids] for ids in tokenizer.encode_batch(SENTENCES)]
    flat = [token for doc in docs for token in doc]
    header = ShardHeader(
        tokenizer_fingerprint=fingerprint or tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split="validation",
        seed=1,
        files=("texts",),
    )
    write_shard(
        directory / "shard-00000.arrow",
        docs=np.arange(len(docs), dtype=np.int64),
        lengths=np.array([len(doc) for doc in docs], dtype=np.int64),
        tokens=np.array(flat, dtype=np.uint16),
        header=header,
    )
    starts = np.arange(0, len(flat) - 1, context_tokens, dtype=np.int64)
    segments = Segments(
        row_offsets=np.arange(len(starts) + 1, dtype=np.int64),
        shard=np.zeros(len(starts), dtype=np.int32),
        start=starts,
        length=np.minimum(context_tokens + 1, len(flat) - starts).astype(np.int32),
    )
    write_rows(directory / "rows.arrow", segments, context_tokens=context_tokens)
    return flat
