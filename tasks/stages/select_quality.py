"""Stage select_quality: documents removed for the score of the quality classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.core.config import Config
from model.core.outputs import DropCounts, OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.selection import REMOVED_NAME, SelectionFacts, select_documents
from tasks.corpus.duckdb_connection import Limits
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.score_quality import ScoreQualityOutputs

STEP_VERSION = 1


class SelectQualityOutputs(Outputs[DropCounts, SelectionFacts], stage="select_quality"):
    """The documents that go for their quality."""

    removed = OutputFile(REMOVED_NAME)  # which they are, and why


class SelectQuality(Config):
    """How documents are chosen by their scores."""

    quality_model: QualityModelConfig

    def semantic(self) -> dict[str, Any]:
        """Return what the choice depends on beside the scores."""
        chosen = self.quality_model
        limit = {"threshold": "min_score", "top_fraction": "top_frac"}[chosen.select]
        fields = ("select", limit, "max_domain_frac")
        return {name: chosen.semantic()[name] for name in fields}


def build(work: Work, config: SelectQuality, share: ResourceShare) -> None:
    """Write removed_quality.parquet."""
    counts, facts = select_documents(
        [item.scores for item in ScoreQualityOutputs.inputs(work, "scores")],
        [item.removed for item in DuplicateClustersOutputs.inputs(work, "removed")],
        config=config.quality_model,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    SelectQualityOutputs.record(work, counts, facts)


def removed_documents(work: Work) -> tuple[Path, ...]:
    """Return the tables of documents that stay out of training, among all inputs of a stage."""
    inputs = [item for items in work.derivation.inputs.values() for item in items]
    return tuple(
        outputs.of(work.store, item).removed
        for item in inputs
        for outputs in (DuplicateClustersOutputs, SelectQualityOutputs)
        if outputs.made(item)
    )


select_quality = Stage(SelectQualityOutputs, version=STEP_VERSION, build=build, scope="corpus")
