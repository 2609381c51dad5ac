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
from typing import Any, cast, get_origin

from model.config.outputs import (
    EVENTS_NAME,
    ExportModelFacts,
    ExportModelOutputs,
    KeptCheckpoint,
    ScoreModelFacts,
    ScoreModelOutputs,
    TrainModelCounts,
    TrainModelFacts,
    TrainModelOutputs,
)
from model.core.artifact import Artifact, Derivation, Manifest
from model.core.outputs import CountsT, DropCounts, FactsT, Numbers, NumbersT, Outputs
from model.core.store import ArtifactStore, Work
from tasks.corpus.validation_split import ValidationCounts
from tasks.stages.download import DownloadCounts, DownloadOutputs
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.train_tokenizer import TrainTokenizerFacts, TrainTokenizerOutputs
from tasks.stages.write_shards import WriteShardsCounts, WriteShardsOutputs

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
    outputs: type[Outputs[CountsT, FactsT]],
    name: str,
    *,
    files: Mapping[str, str] | None = None,
    counts: CountsT | None = None,
    facts: FactsT | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, tuple[Artifact, ...]] | None = None,
    logs: frozenset[str] = frozenset(),
) -> Manifest:
    """Make an artifact of a stage, of given files and numbers; nothing where none are given."""

    def body(work: Work) -> None:
        for path, text in (files or {"content": f"{outputs.stage} {name}"}).items():
            (work.path / path).parent.mkdir(parents=True, exist_ok=True)
            (work.path / path).write_text(text)
        outputs.record(
            work,
            counts or cast("CountsT", filled(outputs.counts_type)),
            facts or cast("FactsT", filled(outputs.facts_type)),
        )
        work.logs |= logs

    derivation = Derivation(
        stage=outputs.stage,
        name=name,
        version=1,
        config=dict(config or {}),
        inputs=dict(inputs or {}),
    )
    return store.build(derivation, body)


def filled(
    kind: type[NumbersT], *, extras: Mapping[str, Any] | None = None, **given: Any
) -> NumbersT:
    """Return counts or facts of which some are given, and every other required one is nothing.

    Args:
        extras: those of a kind whose names are open.
        given: fields; any other name is an error.

    Example:
        >>> filled(WriteShardsCounts, num_rows=5).num_docs
        0
    """
    assert given.keys() <= kind.model_fields.keys(), sorted(given.keys() - kind.model_fields.keys())
    missing = {
        name: _nothing(field.annotation)
        for name, field in kind.model_fields.items()
        if field.is_required() and name not in given
    }
    return kind(**missing, **given, **(extras or {}))


def _nothing(annotation: Any) -> Any:
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, Numbers):
        return filled(kind)
    return kind() if kind in (int, float, str, bool, list, tuple, dict) else None


def train_facts(**given: Any) -> TrainModelFacts:
    """Return the facts of a training of which some are given."""
    return filled(TrainModelFacts, **{"precision": "float32", **given})


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
        ScoreModelOutputs,
        "demo-base",
        files={"scores.json": json.dumps({"samples": [{"prompt": "Tom", "text": " ran."}]})},
        facts=ScoreModelFacts(bits_per_byte=1.0625, validation_loss=3.5),
        inputs={
            "model": (trained.artifact,),
            "validation": (manifests["shards-validation"].artifact,),
        },
    )
    exported = make(
        store,
        ExportModelOutputs,
        "demo-base",
        files={"model/model.safetensors": f"weights {salt}", "model/config.json": "{}"},
        facts=filled(ExportModelFacts, directory="model"),
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
    num_documents = (60, 40)
    raw = [
        make(
            store,
            DownloadOutputs,
            f"part-{n}",
            counts=DownloadCounts(num_documents=count),
            config=kind,
        )
        for n, count in enumerate(num_documents)
    ]
    validation = make(
        store,
        SelectValidationOutputs,
        "validation",
        counts=filled(ValidationCounts, num_in=60, num_kept=5),
        inputs={"raw": (raw[0].artifact,)},
    )
    drops = ({"too_short": 6, "language": 4, "too_long": 0}, {"too_short": 3, "language": 7})
    filtered = [
        make(
            store,
            FilterDocumentsOutputs,
            item.artifact.name,
            counts=DropCounts(num_in=num_in, num_kept=num_in - 10, **reasons),
            inputs={"raw": (item.artifact,)},
        )
        for item, num_in, reasons in zip(raw, num_documents, drops, strict=True)
    ]
    tokenizer = make(
        store,
        TrainTokenizerOutputs,
        "bpe",
        facts=filled(TrainTokenizerFacts, fingerprint="f" * 64),
    )
    clusters = make(
        store,
        DuplicateClustersOutputs,
        "corpus",
        counts=DropCounts(num_in=80, num_kept=67, **{"exact": 6, "normalised": 2, "validation": 5}),
    )
    shards = {
        split: make(
            store,
            WriteShardsOutputs,
            split,
            counts=filled(WriteShardsCounts, num_docs=num_docs, num_tokens=100 * num_docs),
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
        TrainModelOutputs,
        "demo-base",
        counts=filled(TrainModelCounts, steps=STEPS[-1]),
        facts=train_facts(
            checkpoints=tuple(
                KeptCheckpoint(step=step, path=f"checkpoints/step-{step:08d}")
                for step in CHECKPOINT_STEPS
            )
        ),
        files={
            "model/model.safetensors": f"weights {salt}",
            EVENTS_NAME: event_lines(),
            **weights,
        },
        config={"model": {"size": "1m"}, "train": {"steps": 30, "salt": salt}},
        inputs={
            split: (manifests[f"shards-{split}"].artifact,) for split in ("training", "validation")
        },
        logs=TrainModelOutputs.LOGS,
    )
