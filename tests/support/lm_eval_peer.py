"""EleutherAI's lm-evaluation-harness, run by its own command on an exported folder, offline.

Items become one task configuration per evaluation set, which reads them from a parquet file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.data.items import DELIMITER, Item, by_task, write_items
from model.eval.multiple_choice import NORMED_TASKS

COMMAND = Path(sys.executable).with_name("lm_eval")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class PeerScores:
    """The harness's metrics by task, and its answers by task and number of the item."""

    metrics: dict[str, dict[str, float]]
    log_likelihoods: dict[tuple[str, int], list[float]]
    is_greedy: dict[tuple[str, int], list[bool]]


def lm_eval_scores(export: Path, items: Sequence[Item], *, scratch: Path) -> PeerScores:
    """Score items with the command ``lm_eval``."""
    tasks, output = scratch / "tasks", scratch / "output"
    tasks.mkdir()
    for task, own in by_task(items).items():
        write_items(tasks / f"{task}.parquet", own)
        config = task_config(task, own, table=tasks / f"{task}.parquet", cache=scratch / "cache")
        (tasks / f"{task}.yaml").write_text(yaml.safe_dump(config))
    command = [
        str(COMMAND), "--model", "hf", "--model_args", f"pretrained={export},dtype=float32",
        "--tasks", ",".join(by_task(items)), "--include_path", str(tasks), "--device", "cpu",
        "--batch_size", "4", "--log_samples", "--output_path", str(output),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | OFFLINE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return _read(output, list(by_task(items)))


def task_config(task: str, items: Sequence[Item], *, table: Path, cache: Path) -> dict[str, Any]:
    """Return a task configuration of the harness for the items in a table."""
    has_contexts = len(items[0].contexts) > 1
    is_single = len(items[0].contexts) == len(items[0].choices) == 1
    normed = ["acc", "acc_norm"] if task in NORMED_TASKS else ["acc"]
    metrics = ["acc", "perplexity"] if is_single else normed
    config = {
        "task": task,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(table)}, "cache_dir": str(cache)},
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": DELIMITER,
        "output_type": "loglikelihood" if is_single else "multiple_choice",
        "metric_list": [{"metric": name} for name in metrics],
        "metadata": {"version": 1.0},
    }
    context, choice = "{{contexts[0]}}", "{{choices[0]}}"
    if is_single:
        return config | {"doc_to_text": context, "doc_to_target": DELIMITER + choice}
    if has_contexts:  # the harness's way: the text is the number of the right context
        return config | {
            "doc_to_text": "gold",
            "doc_to_target": choice,
            "doc_to_choice": "contexts",
        }
    return config | {"doc_to_text": context, "doc_to_target": "gold", "doc_to_choice": "choices"}


def _read(output: Path, tasks: Sequence[str]) -> PeerScores:
    (results,) = output.glob("*/results_*.json")
    metrics = {
        task: {key.partition(",")[0]: value for key, value in found.items() if ",none" in key}
        for task, found in json.loads(results.read_text())["results"].items()
    }
    log_likelihoods, is_greedy = {}, {}
    for task in tasks:
        (samples,) = output.glob(f"*/samples_{task}_*.jsonl")
        for line in samples.read_text().splitlines():
            sample = json.loads(line)
            key = task, sample["doc"]["number"]
            answers = [answer[0] for answer in sample["resps"]]
            log_likelihoods[key] = [float(nats) for nats, _ in answers]
            is_greedy[key] = [str(greedy) == "True" for _, greedy in answers]
    return PeerScores(metrics, log_likelihoods, is_greedy)
