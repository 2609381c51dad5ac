"""Stage select_quality: which documents go because the quality model finds others better."""

from __future__ import annotations

from typing import Any

from model.core.config import Config
from model.core.store import Work
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.selection import select_documents
from tasks.corpus.duckdb_connection import Limits
from tasks.engine.stage import Share, Stage

STEP_VERSION = 1


class SelectQuality(Config):
    """How documents are chosen by their scores."""

    quality_model: QualityModelConfig

    def semantic(self) -> dict[str, Any]:
        """Return what the choice depends on beside the scores."""
        chosen = self.quality_model
        limit = {"threshold": "min_score", "top_fraction": "top_frac"}[chosen.select]
        fields = ("select", limit, "max_domain_frac")
        return {name: chosen.semantic()[name] for name in fields}


def build(work: Work, config: SelectQuality, share: Share) -> None:
    """Write removed_quality.parquet."""
    counts = select_documents(
        [path / "scores.parquet" for path in work.inputs("scores")],
        [path / "removed.parquet" for path in work.inputs("removed")],
        config=config.quality_model,
        destination=work.path,
        limits=Limits(share.memory_bytes, share.threads, work.path),
    )
    work.counts = {"num_in": counts.num_in, "num_kept": counts.num_kept, **counts.num_removed}
    work.facts = {
        "cut_score": counts.cut_score,
        "most_of_domain": counts.most_of_domain,
        "domains_before": counts.domains_before,
        "domains_after": counts.domains_after,
    }


select_quality = Stage("select_quality", version=STEP_VERSION, build=build, scope="corpus")
