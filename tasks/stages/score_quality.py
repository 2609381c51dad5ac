"""Stage score_quality: how good the quality model finds each kept document of one file."""

from __future__ import annotations

from model.core.config import Config
from model.core.store import Work
from tasks.corpus.classifier.linear_model import ALGORITHM
from tasks.corpus.classifier.selection import score_file
from tasks.corpus.duckdb_connection import Limits
from tasks.engine.stage import Share, Stage

STEP_VERSION = 2


class ScoreQuality(Config):
    """Nothing to choose: the model is an input."""


def build(work: Work, config: ScoreQuality, share: Share) -> None:  # noqa: ARG001
    """Write scores.parquet."""
    num_documents = score_file(
        work.input("part") / "part.parquet",
        work.input("model"),
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_documents": num_documents}


score_quality = Stage(
    "score_quality", version=STEP_VERSION, build=build, algorithms={"features": ALGORITHM}
)
