"""Stage train_quality_model: a linear classifier of text quality, trained on labelled documents."""

from __future__ import annotations

from typing import Any

from model.core.config import Config
from model.core.outputs import Facts, Outputs
from model.core.store import ArtifactStore, Work
from tasks.config.corpus import QualityModelConfig, SourceConfig
from tasks.corpus.classifier.labels import labelled_source, read_labelled
from tasks.corpus.classifier.linear_model import ALGORITHM
from tasks.corpus.classifier.training import LabelCounts, train_and_measure
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.raw_file import sweep
from tasks.corpus.sources.source_files import SourceFile, list_files
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 2
LEARNING_FIELDS = (
    "text_column", "label_column", "min_good_label", "max_labelled", "heldout_frac",
    "feature_bits", "epochs",
)  # fmt: skip


class TrainQualityModelFacts(Facts):
    """How well the model ranks held-out documents."""

    heldout_auc: float


class TrainQualityModelOutputs(
    Outputs[LabelCounts, TrainQualityModelFacts], stage="train_quality_model"
):
    """A quality model; ``QualityModel`` reads its directory."""


class TrainQualityModel(Config):
    """What the model learns from."""

    source: SourceConfig
    files: tuple[SourceFile, ...]
    quality_model: QualityModelConfig
    seed: int

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the model: the files by digest, and how it learns from them."""
        learning = self.quality_model.semantic()
        return {
            "files": [{"file": file.path, "digest": file.digest} for file in self.files],
            "seed": self.seed,
            **{name: learning[name] for name in LEARNING_FIELDS},
        }


def pinned_quality_model(quality: QualityModelConfig) -> QualityModelConfig:
    """Return the settings with a branch of labels on the hub as its commit, if they are used."""
    if quality.select == "none" or quality.labels != "hub":
        return quality
    return quality.model_copy(update={"revision": labelled_source(quality).revision})


def labelled_documents(
    config: QualityModelConfig, *, data_seed: int, store: ArtifactStore
) -> TrainQualityModel:
    """Return the training of the quality model on the labelled files that are there now.

    Raises:
        SourceError: they are missing, or cannot be listed.
    """
    source = labelled_source(config)
    files = tuple(list_files(source, data_seed=0, cache=store.root / "cache"))
    return TrainQualityModel(source=source, files=files, quality_model=config, seed=data_seed)


def build(work: Work, config: TrainQualityModel, share: ResourceShare) -> None:  # noqa: ARG001
    """Write weights.npy and model.json, resuming the downloads of a failed attempt."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    labelled = read_labelled(
        config.source,
        config.files,
        config=config.quality_model,
        seed=config.seed,
        scratch=work.path,
    )
    measured = train_and_measure(labelled, config=config.quality_model, seed=config.seed)
    measured.model.save(work.path)
    facts = TrainQualityModelFacts(heldout_auc=measured.auc)
    TrainQualityModelOutputs.record(work, measured.counts, facts)


train_quality_model = Stage(
    TrainQualityModelOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"features": ALGORITHM},
)
