"""Training in two processes against one, on two cores: equal batches, equal losses, speed.

    python -m benchmarks.bench_scaling FOLDER [--size 1m] [--steps 30] [--repeat 5]

Both train the same model on the text of a folder of parquet files, each process with one thread, in
turns. Batches are compared by where in the data the last checkpoint stands, losses step by step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.machine import describe
from model.config.network import ModelConfig
from model.config.runs import TrainRun
from model.config.train import MixturePart, TrainConfig
from model.core.artifact import Derivation
from model.core.store import ArtifactStore
from model.data.rows import Segments, write_rows
from model.data.shards import ShardHeader, write_shard
from model.text.tokenizer import Tokenizer
from model.train.events import read_events
from tasks.config.corpus import TokenizerConfig
from tasks.engine.launchers import TORCHRUN
from tasks.engine.pipeline import project_root
from tasks.tokens.bpe import train_bpe

CONTEXT_TOKENS = 256
ROWS_PER_STEP = 16
NUM_WARMUP = 3  # steps whose speed does not count


def write_data(root: Path, folder: Path, *, num_rows: int) -> None:
    """Make a tokenizer, training rows and validation rows of the texts of a folder."""
    paths = sorted(folder.rglob("*.parquet"))
    texts = pq.read_table(paths[0], columns=["text"])["text"].to_pylist()
    (root / "tokenizer").mkdir()
    train_bpe(
        iter(texts[:2000]), config=TokenizerConfig(vocab_size=4096), destination=root / "tokenizer"
    )
    tokenizer = Tokenizer.load(root / "tokenizer")
    docs: list[list[int]] = []
    needed = (num_rows + ROWS_PER_STEP) * CONTEXT_TOKENS + 1
    for text in texts:
        docs.append([tokenizer.end_of_text_id, *tokenizer.encode(text)])
        needed -= len(docs[-1])
        if needed <= 0:
            break
    for name, rows in (("training", num_rows), ("validation", ROWS_PER_STEP)):
        write_split(root / name, docs, tokenizer, num_rows=rows)


def write_split(
    directory: Path, docs: list[list[int]], tokenizer: Tokenizer, *, num_rows: int
) -> None:
    """Write all documents as one shard, its first tokens cut into rows."""
    directory.mkdir()
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split="train",
        seed=1,
        files=("text",),
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


def train(root: Path, name: str, *, size: str, steps: int, processes: int) -> dict[str, Any]:
    """Train once and return losses, place in the data and the median tokens/s."""
    config = TrainConfig(
        steps=steps,
        batch_tokens_per_step=ROWS_PER_STEP * CONTEXT_TOKENS,
        micro_batch_rows=4,
        warmup_steps=2,
        log_every_steps=1,
        validate_every_steps=steps,
        checkpoint_every_steps=steps,
        precision="float32",
        processes=processes,
    )
    run = TrainRun(
        data_root=str(root),
        derivation=Derivation(stage="train_model", name=name, version=1),
        model=ModelConfig.model_validate({"size": size, "context_tokens": CONTEXT_TOKENS}),
        train=config,
        tokenizer="tokenizer",
        mixture=(MixturePart(shards="training"),),
        validation="validation",
    )
    path = root / f"{name}.json"
    path.write_text(run.model_dump_json())
    several = (*TORCHRUN, "--standalone", f"--nproc-per-node={processes}")
    command = [sys.executable, *(several if processes > 1 else ()), "-m", "model.train"]
    subprocess.run(
        [*command, "--config", str(path)],
        check=True,
        capture_output=True,
        cwd=project_root(),
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    made = ArtifactStore(root).path(run.derivation.artifact)
    events = [event for event in read_events(made / "events.jsonl") if event["kind"] == "train"]
    state = json.loads((made / f"checkpoints/step-{steps:08d}/state.json").read_text())
    speeds = [event["perf/tokens_per_second"] for event in events[NUM_WARMUP:]]
    return {
        "losses": [event["train/loss"] for event in events],
        "place": state["loop"]["loader"],
        "speed": statistics.median(speeds),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with parquet files of text")
    parser.add_argument("--size", default="1m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_data(root, options.folder, num_rows=options.steps * ROWS_PER_STEP)
        for turn in range(options.repeat):
            order = (1, 2) if turn % 2 == 0 else (2, 1)
            done = {
                count: train(
                    root, f"{count}-{turn}", size=options.size, steps=options.steps, processes=count
                )
                for count in order
            }
            pairs.append((done[1], done[2]))
    print(describe())
    print(f"\nbatches equal: {all(one['place'] == two['place'] for one, two in pairs)}")
    apart = [
        abs(first / second - 1)
        for one, two in pairs
        for first, second in zip(one["losses"], two["losses"], strict=True)
    ]
    print(f"losses apart by at most {max(apart):.1e} of their value, over {len(apart)} steps\n")
    print("| processes | tokens/s, median (spread) |\n|---|---:|")
    for index, name in enumerate(("1", "2")):
        speeds = [pair[index]["speed"] for pair in pairs]
        print(
            f"| {name} | {statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f}) |"
        )
    ratios = [two["speed"] / one["speed"] for one, two in pairs]
    print(f"\n{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
