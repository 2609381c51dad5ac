"""Stage publish_corpus: the clean text as a data set folder that anyone can load."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from model.core.artifact import Artifact, Manifest
from model.core.config import Config
from model.core.outputs import DropCounts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import PersonalDataConfig
from tasks.config.run import CardConfig
from tasks.corpus.publish.card import DatasetCounts, Provenance
from tasks.corpus.publish.dataset import CARD, DatasetFacts, write_dataset
from tasks.engine.stage import Inputs, ResourceShare, Stage
from tasks.stages.download import DownloadOutputs, source_facts
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.evaluation_ngrams import EvaluationNgramsOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.select_quality import SelectQualityOutputs, removed_documents
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.train_quality_model import LEARNING_FIELDS, TrainQualityModelOutputs

STEP_VERSION = 2
DATASET = (
    "dataset"  # the artifact's name and the folder in it, which holds nothing but the data set
)
DropCountsT = TypeVar("DropCountsT", bound=DropCounts)
CONSUMED = "consumed.json"  # input digests of the attempt that wrote what is there
STAGES: tuple[type[Outputs[Any, Any]], ...] = (
    DownloadOutputs,
    FilterDocumentsOutputs,
    EvaluationNgramsOutputs,
    DuplicateClustersOutputs,
    TrainQualityModelOutputs,
    SelectQualityOutputs,
    SelectValidationOutputs,
)


class PublishCorpusOutputs(Outputs[DatasetCounts, DatasetFacts], stage="publish_corpus"):
    """A published corpus."""

    dataset = OutputFile(DATASET)  # the folder that is the data set

    @property
    def card(self) -> Path:
        """Its card."""
        return self.dataset / CARD


class PublishCorpus(Config):
    """How the data set presents itself."""

    card: CardConfig


def publish_inputs(artifacts: Iterable[Artifact]) -> Inputs:
    """Return the artifacts that hold or decide the clean text as inputs, by stage."""
    found = list(artifacts)
    return {stage.stage: [item for item in found if stage.made(item)] for stage in STAGES}


def build(work: Work, config: PublishCorpus, share: ResourceShare) -> None:  # noqa: ARG001
    """Write dataset/data/*.parquet and dataset/README.md."""
    manifests = [item for stage in STAGES for item in work.input_manifests(stage.stage)]
    _keep_only_what_these_made(work, manifests)
    filtered = FilterDocumentsOutputs.inputs(work, FilterDocumentsOutputs.stage)
    counts, facts = write_dataset(
        {item.facts.file: item.part for item in filtered},
        removed_documents(work),
        SelectValidationOutputs.input(work, SelectValidationOutputs.stage).documents,
        personal_data=_personal_data(manifests),
        provenance=_provenance(manifests),
        card=config.card,
        destination=PublishCorpusOutputs(work.path).dataset,
    )
    PublishCorpusOutputs.record(work, counts, facts)


def _keep_only_what_these_made(work: Work, manifests: Sequence[Manifest]) -> None:
    """Discard what a killed attempt wrote, if an input was rebuilt to other bytes since."""
    note = work.path / CONSUMED
    digests = json.dumps({item.artifact.key: item.content_digest for item in manifests})
    if not note.exists() or note.read_text() != digests:
        shutil.rmtree(PublishCorpusOutputs(work.path).dataset, ignore_errors=True)
        note.write_text(digests)
    work.logs.add(CONSUMED)


def _provenance(manifests: Sequence[Manifest]) -> Provenance:
    raw = DownloadOutputs.among(manifests)
    return Provenance(
        source=source_facts(raw[0]),
        num_files=len(raw),
        num_source=sum(DownloadOutputs.counts_of(item).num_documents for item in raw),
        settings=_settings(manifests),
        rejected=_total_dropped(FilterDocumentsOutputs, manifests),
        removed=_total_dropped(DuplicateClustersOutputs, manifests),
        low_quality=_total_dropped(SelectQualityOutputs, manifests),
    )


def _settings(manifests: Sequence[Manifest]) -> dict[str, dict[str, Any]]:
    """Return the settings that shaped the text, by group; those of stages that ran."""
    settings = dict(_config(FilterDocumentsOutputs, manifests) or {})
    settings["dedup"] = _config(DuplicateClustersOutputs, manifests)
    if sets := _config(EvaluationNgramsOutputs, manifests):
        settings["decontamination"] = {
            "ngram_words": sets["ngram_words"],
            "sets": sets["digests"],
        }
    chosen = _config(SelectQualityOutputs, manifests)
    learned = _config(TrainQualityModelOutputs, manifests)
    if chosen and learned:
        settings["quality_model"] = {
            **chosen,
            "labels": [file["digest"] for file in learned["files"]],
            **{name: learned[name] for name in LEARNING_FIELDS},
        }
    return settings


def _config(stage: type[Outputs[Any, Any]], manifests: Sequence[Manifest]) -> dict[str, Any] | None:
    """Return the config of a stage, the same for all of its artifacts; None if it did not run."""
    return next((item.derivation.config for item in stage.among(manifests)), None)


def _personal_data(manifests: Sequence[Manifest]) -> PersonalDataConfig:
    """Return what the filter did to the training text."""
    config = FilterDocumentsOutputs.among(manifests)[0].derivation.config
    return PersonalDataConfig.model_validate(config["personal_data"])


def _total_dropped(
    stage: type[Outputs[DropCountsT, Any]], manifests: Sequence[Manifest]
) -> dict[str, int]:
    total: Counter[str] = Counter()
    for item in stage.among(manifests):
        total.update(stage.counts_of(item).dropped)
    return {reason: count for reason, count in total.items() if count}


publish_corpus = Stage(
    PublishCorpusOutputs, version=STEP_VERSION, build=build, scope="corpus", resume=True
)
