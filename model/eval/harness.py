"""Score an exported model with EleutherAI's lm-evaluation-harness, and compare with our scores.

    python -m model.eval.harness --config <launch>/config.json

The harness loads the export as a stock transformers model, in fp32, and asks about the items of
``items.parquet``, each set a task configuration of the harness that reads that table. One process;
the config is a ``HarnessRun``.

    harness.json              the harness's own results, by task
    harness_items.parquet     task, number, log_likelihoods, is_greedy, as item_scores.parquet
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from model.config.child_runs import HarnessRun, make_artifact, parse_config_path, run_child
from model.core.artifact import canonical_json
from model.core.errors import ConfigError
from model.core.files import write_synced
from model.core.store import Work
from model.data.items import DELIMITER, ITEMS_NAME, Item, by_task, read_items, write_items
from model.eval.loglikelihood import encode_requests
from model.eval.multiple_choice import ITEM_SCORES_NAME, NORMED_TASKS
from model.export.hf_reader import load_pretrained

logger = logging.getLogger(__name__)

HARNESS_NAME = "harness.json"
HARNESS_ITEMS_NAME = "harness_items.parquet"
MEASURES = ("acc", "acc_norm", "perplexity")


def run_harness(
    folder: Path, items: Sequence[Item], *, batch_rows: int, device: str = "cpu"
) -> dict[str, Any]:
    """Return what the harness finds: its results by task, and a sample of each item.

    Args:
        folder: an exported model.
        batch_rows: texts in one pass.

    Raises:
        ConfigError: the harness is not installed.
    """
    try:  # as Any: the package's decorators hide what its functions take
        harness: Any = importlib.import_module("lm_eval")
        transformers_models: Any = importlib.import_module("lm_eval.models.huggingface")
    except ImportError as exc:
        raise ConfigError(
            "lm-evaluation-harness is not installed",
            expected="the packages lm-eval and accelerate, as in requirements.lock",
            found=exc,
            fix="pip install --no-deps --require-hashes -r requirements.lock, or set "
            "evaluation.harness=off",
        ) from exc
    network = transformers_models.HFLM(
        pretrained=str(folder),
        dtype="float32",
        device=device,
        batch_size=batch_rows,
        backend="causal",
    )
    with TemporaryDirectory() as scratch:
        tasks = [
            task_config(task, own, table=Path(scratch) / f"{task}.parquet", cache=Path(scratch))
            for task, own in by_task(items).items()
        ]
        found = harness.simple_evaluate(
            model=network, tasks=tasks, log_samples=True, bootstrap_iters=0
        )
    assert found is not None, "one process is rank 0"
    return {"results": found["results"], "samples": found["samples"]}


def task_config(task: str, items: Sequence[Item], *, table: Path, cache: Path) -> dict[str, Any]:
    """Return a task of the harness that asks about items, whose table it writes."""
    write_items(table, items)
    has_contexts = len(items[0].contexts) > 1
    is_single = len(items[0].contexts) == len(items[0].choices) == 1
    config = {
        "task": task,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(table)}, "cache_dir": str(cache)},
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": DELIMITER,
        "metric_list": [{"metric": name} for name in _measures(task, is_single=is_single)],
        "metadata": {"version": 1.0},
    }
    if is_single:
        return config | {
            "output_type": "loglikelihood",
            "doc_to_text": _first_context,
            "doc_to_target": _first_choice,
        }
    config["output_type"] = "multiple_choice"
    if has_contexts:  # the harness's way: the text is the number of the right context
        return config | {
            "doc_to_text": _gold,
            "doc_to_target": _only_choice,
            "doc_to_choice": _contexts,
        }
    return config | {
        "doc_to_text": _first_context,
        "doc_to_target": _gold,
        "doc_to_choice": _choices,
    }


def _measures(task: str, *, is_single: bool) -> list[str]:
    if is_single:
        return ["acc", "perplexity"]
    return ["acc", "acc_norm"] if task in NORMED_TASKS else ["acc"]


def _first_context(row: Mapping[str, Any]) -> str:
    return row["contexts"][0]


def _first_choice(row: Mapping[str, Any]) -> str:
    return DELIMITER + row["choices"][0]


def _only_choice(row: Mapping[str, Any]) -> str:
    return row["choices"][0]


def _gold(row: Mapping[str, Any]) -> int:
    return row["gold"]


def _contexts(row: Mapping[str, Any]) -> list[str]:
    return row["contexts"]


def _choices(row: Mapping[str, Any]) -> list[str]:
    return row["choices"]


def fitting_items(items: Sequence[Item], folder: Path) -> list[Item]:
    """Return the items whose continuations fit the model's context: the harness stops at others.

    Args:
        folder: an exported model.
    """
    loaded = load_pretrained(folder)
    limit = loaded.model.architecture.context_tokens
    pairs = [pair for item in items for pair in item.requests]
    requests = iter(encode_requests(loaded.tokenizer, pairs))
    longest = [max(next(requests).num_targets for _ in item.requests) for item in items]
    return [item for item, length in zip(items, longest, strict=True) if length <= limit]


def item_columns(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """Return the harness's answers as the columns of ``harness_items.parquet``."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("task", "number", "log_likelihoods", "is_greedy")
    }
    for task, own in samples.items():
        for sample in sorted(own, key=lambda sample: sample["doc_id"]):
            answers = [answer[0] for answer in sample["resps"]]
            columns["task"].append(task)
            columns["number"].append(sample["doc"]["number"])
            columns["log_likelihoods"].append([float(nats) for nats, _ in answers])
            columns["is_greedy"].append([str(greedy) == "True" for _, greedy in answers])
    return columns


def differences(ours: pa.Table, theirs: pa.Table) -> dict[str, float]:
    """Return how far two tables of answers to the same items are apart."""
    mine, other = (
        {(row["task"], row["number"]): row for row in table.to_pylist()} for table in (ours, theirs)
    )
    shared = mine.keys() & other.keys()
    gaps = [
        abs(one - two)
        for key in shared
        for one, two in zip(
            mine[key]["log_likelihoods"], other[key]["log_likelihoods"], strict=True
        )
    ]
    changed = sum(mine[key]["is_greedy"] != other[key]["is_greedy"] for key in shared)
    return {
        "num_compared": len(shared),
        "max_nats_apart": max(gaps, default=0.0),
        "num_greedy_apart": changed,
    }


def make_harness_scores(config_path: Path) -> None:
    """Make the artifact that a ``HarnessRun`` file describes."""
    run = HarnessRun.load(config_path)

    def body(work: Work) -> None:
        items = read_items(run.path(run.items) / ITEMS_NAME)
        fitting = fitting_items(items, run.path(run.model))
        work.counts["items_too_long"] = len(items) - len(fitting)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = run_harness(run.path(run.model), fitting, batch_rows=run.batch_rows, device=device)
        results = {
            task: {
                name: float(values[f"{name},none"]) for name in MEASURES if f"{name},none" in values
            }
            for task, values in found["results"].items()
        }
        write_synced(work.path / HARNESS_NAME, canonical_json(results).encode())
        table = pa.table(item_columns(found["samples"]))
        pq.write_table(table, work.path / HARNESS_ITEMS_NAME)
        work.counts["items"] = table.num_rows
        work.facts |= {
            f"{task}_{name}": value
            for task, values in results.items()
            for name, value in values.items()
        }
        if run.scores:
            ours = pq.read_table(run.path(run.scores) / ITEM_SCORES_NAME)
            work.facts |= differences(ours, table)

    make_artifact(run, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the export a config file names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return run_child(parse_config_path(arguments, description=__doc__), make_harness_scores)


if __name__ == "__main__":
    sys.exit(main())
