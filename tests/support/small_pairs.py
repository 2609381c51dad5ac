"""Shards of preference pairs beside those of ``small_training``, and DPO runs on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model.config.network import ModelConfig
from model.config.runs import TrainRun
from model.config.train import DirectPreference, MixturePart
from model.data.rows import Segments, write_rows
from model.data.shards import ShardHeader, ShardSet, write_shard
from model.network.gpt import GPT
from model.network.weights import save_model
from model.text.tokenizer import IM_END, Tokenizer
from tests.support.small_training import CONTEXT_TOKENS, make_data_root, small_run

BETA = 0.5


def write_small_pairs(
    directory: Path, tokenizer: Tokenizer, *, num_rows: int, seed: int = 1
) -> ShardSet:
    """Write rows of a prompt and an answer: one word is the better answer to every prompt."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    answers = [[*tokenizer.encode(text), tokenizer.special_id(IM_END)] for text in ("cat", "mat!")]
    rows: list[list[int]] = []
    masks: list[list[bool]] = []
    prompt: list[int] = []
    for number in range(num_rows):
        if number % 2 == 0:
            prompt = [tokenizer.end_of_text_id, *rng.integers(40, 400, rng.integers(2, 8)).tolist()]
        answer = answers[number % 2]
        rows.append([*prompt, *answer])
        masks.append([False] * len(prompt) + [True] * len(answer))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split="train",
        seed=seed,
        files=("pairs",),
    )
    write_shard(
        directory / "shard-00000.arrow",
        docs=np.arange(num_rows, dtype=np.int64) // 2,
        lengths=lengths,
        tokens=np.array([token for row in rows for token in row], dtype=np.uint16),
        header=header,
        loss_mask=np.array([flag for mask in masks for flag in mask]),
    )
    segments = Segments(
        row_offsets=np.arange(num_rows + 1, dtype=np.int64),
        shard=np.zeros(num_rows, dtype=np.int32),
        start=np.cumsum(lengths) - lengths,
        length=lengths.astype(np.int32),
    )
    write_rows(directory / "rows.arrow", segments, context_tokens=CONTEXT_TOKENS)
    return ShardSet(directory, context_tokens=CONTEXT_TOKENS, loss_on="mask")


def make_pairs_root(root: Path) -> Path:
    """Make a data root with pairs, and a base model in which every parameter matters."""
    make_data_root(root, num_rows=20)
    tokenizer = Tokenizer.load(root / "tokenizer")
    write_small_pairs(root / "pairs", tokenizer, num_rows=80, seed=1)
    write_small_pairs(root / "held-out-pairs", tokenizer, num_rows=20, seed=2)
    architecture = ModelConfig(size="1m", context_tokens=CONTEXT_TOKENS).architecture(
        tokenizer.vocab_size
    )
    base = GPT(architecture)
    base.init_weights(3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_model(base, root / "base")
    return root


def pairs_run(root: Path, *, name: str = "preferred", train: dict[str, object], **fields: object):
    """Return a DPO run on the pairs of a data root, two pairs a step."""
    rates = dict.fromkeys(
        (
            "learning_rate",
            "embedding_learning_rate",
            "head_learning_rate",
            "norm_learning_rate",
        ),
        1e-3,
    )
    run: TrainRun = small_run(root, name=name, train=rates | train)
    changes: dict[str, object] = {
        "mixture": (MixturePart(shards="pairs"),),
        "validation": "held-out-pairs",
        "init_from": "base",
        "dpo": DirectPreference(beta=BETA),
    }
    return run.model_copy(update=changes | fields)
