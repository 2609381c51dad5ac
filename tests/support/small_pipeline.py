"""A data root with the artifacts of one small pipeline: real manifests, made-up content."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from model.core.artifact import Artifact, Derivation, Manifest
from model.core.store import ArtifactStore, Work

STEPS = (1, 10, 20, 30)
CHECKPOINT_STEPS = (20, 30)


@dataclass(frozen=True)
class SmallPipeline:
    """A store, and its artifacts by stage."""

    store: ArtifactStore
    manifests: dict[str, Manifest]

    def artifact(self, stage: str) -> Artifact:
        """Return the artifact of a stage."""
        return self.manifests[stage].artifact


def make(
    store: ArtifactStore,
    stage: str,
    name: str,
    *,
    files: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, tuple[Artifact, ...]] | None = None,
    logs: frozenset[str] = frozenset(),
) -> Manifest:
    """Make an artifact of given files and counts."""

    def body(work: Work) -> None:
        for path, text in (files or {"content": f"{stage} {name}"}).items():
            (work.path / path).parent.mkdir(parents=True, exist_ok=True)
            (work.path / path).write_text(text)
        work.counts |= counts or {}
        work.facts |= facts or {}
        work.logs |= logs

    derivation = Derivation(
        stage=stage, name=name, version=1, config=dict(config or {}), inputs=dict(inputs or {})
    )
    return store.build(derivation, body)


def event_lines(*, until: int = 30, loss_offset: float = 0.0) -> str:
    """Return an events.jsonl with training and validation up to a step."""
    events: list[dict[str, Any]] = [
        {"kind": "start", "step": 0, "num_processes": 1, "device": "cpu"}
    ]
    for step in (step for step in STEPS if step <= until):
        loss = 6.0 - step / 10 + loss_offset
        events.append(
            {
                "kind": "train",
                "step": step,
                "train/loss": loss,
                "train/tokens": 1000 * step,
                "train/learning_rate": 0.001,
                "perf/tokens_per_second": 500.0,
            }
        )
        if step in CHECKPOINT_STEPS:
            events.append({"kind": "checkpoint", "step": step, "path": f"checkpoints/{step}"})
            bits = {"validation/loss": loss + 0.5, "validation/bits_per_byte": loss / 3}
            events.append({"kind": "validation", "step": step, **bits})
    if until == STEPS[-1]:
        events.append({"kind": "end", "step": until, "state": "complete"})
    start = 1_795_000_000.25
    return "".join(
        json.dumps({"time": start + index, **event}) + "\n" for index, event in enumerate(events)
    )


def make_small_pipeline(root: Path, *, salt: str = "") -> SmallPipeline:
    """Make every artifact of a pretraining on two source files.

    Args:
        salt: part of the training's config and weights, so that tests do not share runs.
    """
    source, manifests = _small_corpus()
    shutil.copytree(source, root, dirs_exist_ok=True)
    store = ArtifactStore(root)
    trained = make_training(store, manifests, salt=salt)
    scores = make(
        store,
        "score_model",
        "demo-base",
        files={"scores.json": json.dumps({"samples": [{"prompt": "Tom", "text": " ran."}]})},
        facts={"bits_per_byte": 1.0625, "validation_loss": 3.5},
        inputs={
            "model": (trained.artifact,),
            "validation": (manifests["shards-validation"].artifact,),
        },
    )
    exported = make(
        store,
        "export_model",
        "demo-base",
        files={"model/model.safetensors": f"weights {salt}", "model/config.json": "{}"},
        facts={"directory": "model"},
        inputs={"model": (trained.artifact,)},
    )
    last = {item.artifact.stage: item for item in (trained, scores, exported)}
    return SmallPipeline(store, manifests | last)


@cache
def _small_corpus() -> tuple[Path, dict[str, Manifest]]:
    """Make the data stages, once for all tests, and return their data root."""
    root = Path(tempfile.mkdtemp(prefix="llm-corpus-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    store = ArtifactStore(root)
    kind = {"kind": "demo"}
    raw = [
        make(store, "download", f"part-{n}", counts={"num_documents": count}, config=kind)
        for n, count in ((0, 60), (1, 40))
    ]
    validation = make(
        store,
        "select_validation",
        "validation",
        counts={"num_in": 60, "num_kept": 5},
        inputs={"raw": (raw[0].artifact,)},
    )
    drops = ({"too_short": 6, "language": 4, "too_long": 0}, {"too_short": 3, "language": 7})
    filtered = [
        make(
            store,
            "filter_documents",
            item.artifact.name,
            counts={
                "num_in": item.counts["num_documents"],
                "num_kept": item.counts["num_documents"] - 10,
                **reasons,
            },
            inputs={"raw": (item.artifact,)},
        )
        for item, reasons in zip(raw, drops, strict=True)
    ]
    tokenizer = make(store, "train_tokenizer", "bpe", facts={"fingerprint": "f" * 64})
    clusters = make(
        store,
        "duplicate_clusters",
        "corpus",
        counts={
            "num_in": 80, "exact": 6, "normalised": 2, "validation": 5, "num_kept": 67,
            "num_clusters": 4,
        },
    )  # fmt: skip
    shards = {
        split: make(
            store,
            "write_shards",
            split,
            counts={"num_docs": num_docs, "num_tokens": 100 * num_docs},
            config={"split": split},
            inputs={"documents": documents},
        )
        for split, num_docs, documents in (
            ("training", 67, tuple(item.artifact for item in filtered)),
            ("validation", 5, (validation.artifact,)),
        )
    }
    named = {
        "download-1": raw[1],
        "filter-1": filtered[1],
        "filter": filtered[0],
        "shards-training": shards["training"],
        "shards-validation": shards["validation"],
    }
    unique = (raw[0], validation, tokenizer, clusters)
    return root, named | {item.artifact.stage: item for item in unique}


def make_training(
    store: ArtifactStore, manifests: Mapping[str, Manifest], *, salt: str = ""
) -> Manifest:
    """Make a finished training with two kept checkpoints."""
    weights = {
        f"checkpoints/step-{step:08d}/model.safetensors": f"weights at {step} {salt}"
        for step in CHECKPOINT_STEPS
    }
    return make(
        store,
        "train_model",
        "demo-base",
        files={
            "model/model.safetensors": f"weights {salt}",
            "events.jsonl": event_lines(),
            **weights,
        },
        config={"model": {"size": "1m"}, "train": {"steps": 30, "salt": salt}},
        inputs={
            split: (manifests[f"shards-{split}"].artifact,) for split in ("training", "validation")
        },
        logs=frozenset({"events.jsonl", "checkpoints"}),
    )
