"""Stage score_quality: scores of the kept documents of one file by the quality classifier."""

from __future__ import annotations

from model.core.config import Config
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import Work
from tasks.corpus.classifier.linear_model import ALGORITHM
from tasks.corpus.classifier.selection import SCORES_NAME, score_file
from tasks.corpus.duckdb_connection import Limits
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.train_quality_model import TrainQualityModelOutputs

STEP_VERSION = 2


class ScoreQualityCounts(Counts):
    """Documents of the file."""

    num_documents: int


class ScoreQualityOutputs(Outputs[ScoreQualityCounts, Facts], stage="score_quality"):
    """The scores of the kept documents of one file."""

    scores = OutputFile(SCORES_NAME)  # file, row, id, domain and score


class ScoreQuality(Config):
    """Nothing to choose: the model is an input."""


def build(work: Work, config: ScoreQuality, share: ResourceShare) -> None:  # noqa: ARG001
    """Write scores.parquet."""
    num_documents = score_file(
        FilterDocumentsOutputs.input(work, "part").part,
        TrainQualityModelOutputs.input(work, "model").directory,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    ScoreQualityOutputs.record(work, ScoreQualityCounts(num_documents=num_documents))


score_quality = Stage(
    ScoreQualityOutputs, version=STEP_VERSION, build=build, algorithms={"features": ALGORITHM}
)
