"""Stage publish_corpus: the clean text once, as a data set folder that anyone can load."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.core.artifact import Artifact, Manifest
from model.core.config import Config
from model.core.store import Work
from tasks.config.corpus import CardConfig, PersonalDataConfig
from tasks.corpus.publish.card import Provenance
from tasks.corpus.publish.dataset import write_dataset
from tasks.engine.removals import removal_tables
from tasks.engine.stage import Inputs, Share, Stage
from tasks.reporting.funnel import losses
from tasks.stages.download import source_facts
from tasks.stages.train_quality_model import LEARNING_FIELDS

STEP_VERSION = 2
DATASET = (
    "dataset"  # the artifact's name and the folder in it, which holds nothing but the data set
)
CONSUMED = "consumed.json"  # input digests of the attempt that wrote what is there
STAGES = (
    "download",
    "filter_documents",
    "evaluation_ngrams",
    "duplicate_clusters",
    "train_quality_model",
    "select_quality",
    "select_validation",
)


class PublishCorpus(Config):
    """How the data set presents itself."""

    card: CardConfig


def publish_inputs(artifacts: Iterable[Artifact]) -> Inputs:
    """Return the artifacts that hold or decide the clean text as inputs, by stage."""
    found = list(artifacts)
    return {stage: [item for item in found if item.stage == stage] for stage in STAGES}


def dataset_folder(artifact_directory: Path) -> Path:
    """Return the folder of a publish artifact that is a data set."""
    return artifact_directory / DATASET


def build(work: Work, config: PublishCorpus, share: Share) -> None:  # noqa: ARG001
    """Write dataset/data/*.parquet and dataset/README.md."""
    manifests = {stage: work.input_manifests(stage) for stage in STAGES}
    _keep_only_what_these_made(work, manifests)
    parts = zip(manifests["filter_documents"], work.inputs("filter_documents"), strict=True)
    counts = write_dataset(
        {manifest.facts["file"]: path / "part.parquet" for manifest, path in parts},
        removal_tables(work),
        work.input("select_validation") / "validation.parquet",
        personal_data=_personal_data(manifests),
        provenance=_provenance(manifests),
        card=config.card,
        destination=dataset_folder(work.path),
    )
    work.counts = {"num_docs": counts.num_training, "num_validation": counts.num_validation}
    work.facts = {"files": list(counts.files)}


def _keep_only_what_these_made(work: Work, manifests: dict[str, list[Manifest]]) -> None:
    """Discard what a killed attempt wrote, if an input was rebuilt to other bytes since."""
    note = work.path / CONSUMED
    digests = json.dumps(
        {item.artifact.key: item.content_digest for items in manifests.values() for item in items}
    )
    if not note.exists() or note.read_text() != digests:
        shutil.rmtree(dataset_folder(work.path), ignore_errors=True)
        note.write_text(digests)
    work.logs.add(CONSUMED)


def _provenance(manifests: dict[str, list[Manifest]]) -> Provenance:
    raw = manifests["download"]
    return Provenance(
        source=source_facts(raw[0]),
        num_files=len(raw),
        num_source=sum(item.counts["num_documents"] for item in raw),
        settings=_settings(manifests),
        rejected=_total_losses(manifests["filter_documents"]),
        removed=_total_losses(manifests["duplicate_clusters"]),
        low_quality=_total_losses(manifests["select_quality"]),
    )


def _settings(manifests: dict[str, list[Manifest]]) -> dict[str, dict[str, Any]]:
    """Return the settings that shaped the text, by group; those of stages that ran."""
    config = {stage: items[0].derivation.config for stage, items in manifests.items() if items}
    settings = dict(config["filter_documents"]) | {"dedup": config["duplicate_clusters"]}
    if "evaluation_ngrams" in config:
        sets = config["evaluation_ngrams"]
        settings["decontamination"] = {
            "ngram_words": sets["ngram_words"],
            "sets": sets["digests"],
        }
    if "select_quality" in config:
        learned = config["train_quality_model"]
        settings["quality_model"] = {
            **config["select_quality"],
            "labels": [file["digest"] for file in learned["files"]],
            **{name: learned[name] for name in LEARNING_FIELDS},
        }
    return settings


def _personal_data(manifests: dict[str, list[Manifest]]) -> PersonalDataConfig:
    """Return what the filter did to the training text."""
    config = manifests["filter_documents"][0].derivation.config
    return PersonalDataConfig.model_validate(config["personal_data"])


def _total_losses(manifests: Sequence[Manifest]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for item in manifests:
        total.update(losses(item))
    return {reason: count for reason, count in total.items() if count}


publish_corpus = Stage(
    "publish_corpus", version=STEP_VERSION, build=build, scope="corpus", resume=True
)
