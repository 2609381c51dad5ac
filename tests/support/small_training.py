"""A data root with a tokenizer and small shard sets, and runs of a tiny model on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.config import defaults
from model.config.network import ModelConfig
from model.config.runs import TrainRun
from model.config.train import MixturePart, TrainConfig
from model.core.artifact import Derivation
from model.data.rows import Segments, write_rows
from model.data.shards import ShardHeader, ShardSet, write_shard
from model.runtime.distributed import DistributedContext, StopRequest
from model.text.tokenizer import Tokenizer
from model.train.trainer import Trainer
from tests.support.small_tokenizer import SENTENCES, train_small_tokenizer

ROOT = Path(__file__).parents[2]
CONTEXT_TOKENS = 16
ROWS_PER_STEP = 4


def write_small_shards(
    directory: Path, tokenizer: Tokenizer, *, num_rows: int, seed: int = 1
) -> ShardSet:
    """Write one shard of shuffled sentences, cut into full rows."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    sentences = tokenizer.encode_batch(SENTENCES)
    docs: list[list[int]] = []
    needed = num_rows * CONTEXT_TOKENS + 1
    while sum(map(len, docs)) < needed:
        docs.append([tokenizer.end_of_text_id, *sentences[rng.integers(len(sentences))]])
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split="train",
        seed=seed,
        files=("sentences",),
    )
    write_shard(
        directory / "shard-00000.arrow",
        docs=np.arange(len(docs), dtype=np.int64),
        lengths=np.array([len(doc) for doc in docs], dtype=np.int64),
        tokens=np.array([token for doc in docs for token in doc], dtype=np.uint16),
        header=header,
    )
    segments = Segments(
        row_offsets=np.arange(num_rows + 1, dtype=np.int64),
        shard=np.zeros(num_rows, dtype=np.int32),
        start=np.arange(num_rows, dtype=np.int64) * CONTEXT_TOKENS,
        length=np.full(num_rows, CONTEXT_TOKENS + 1, dtype=np.int32),
    )
    write_rows(directory / "rows.arrow", segments, context_tokens=CONTEXT_TOKENS)
    return ShardSet(directory, context_tokens=CONTEXT_TOKENS)


def make_data_root(root: Path, *, num_rows: int = 200) -> Path:
    tokenizer = Tokenizer.load(train_small_tokenizer(root / "tokenizer"))
    write_small_shards(root / "training", tokenizer, num_rows=num_rows, seed=1)
    write_small_shards(root / "validation", tokenizer, num_rows=12, seed=2)
    return root


def small_run(root: Path, *, name: str = "tiny", train: dict[str, object], **fields: object):
    """Return a run of 4 rows of 16 tokens a step that records every step."""
    given: dict[str, object] = {
        "batch_tokens_per_step": ROWS_PER_STEP * CONTEXT_TOKENS,
        "micro_batch_rows": 2,
        "warmup_steps": 2,
        "log_every_steps": 1,
        "validate_every_steps": 5,
        "checkpoint_every_steps": 4,
        "precision": "float32",
    }
    model = ModelConfig(size="1m", context_tokens=CONTEXT_TOKENS)
    vocab_size = Tokenizer.load(root / "tokenizer").vocab_size
    config = defaults.resolve(TrainConfig.model_validate(given | train), model, vocab_size)
    semantic = {"model": model.semantic(), "train": config.semantic()}
    derivation = Derivation(stage="train_model", name=name, version=1, config=semantic)
    run = TrainRun(
        data_root=str(root),
        derivation=derivation,
        model=model,
        train=config,
        tokenizer="tokenizer",
        mixture=(MixturePart(shards="training"),),
        validation="validation",
    )
    return run.model_copy(update=fields)


def trainer_of(run: TrainRun, directory: Path) -> Trainer:
    """Return a trainer that does a run in this process, alone."""
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(run, directory=directory, distributed=DistributedContext(), stop=StopRequest())


def saved_weights(directory: Path) -> bytes:
    """Return the file of the weights that a run left in its directory."""
    return (directory / "model" / "model.safetensors").read_bytes()


def write_config(run: TrainRun, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    path.write_text(run.model_dump_json())
    return path


def child_command(config: Path, *, num_processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    arguments = launcher if num_processes > 1 else []
    return [sys.executable, *arguments, "-m", "model.train", "--config", str(config)]


def start_child(config: Path, *, num_processes: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        child_command(config, num_processes=num_processes),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_until(child: subprocess.Popen[str], words: str) -> Iterator[str]:
    """Yield a child's output up to the first line that holds the words."""
    assert child.stdout
    for line in child.stdout:
        yield line
        if words in line:
            return
