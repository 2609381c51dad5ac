"""Which stages take documents out of the filtered text, and in which table each names them."""

from __future__ import annotations

from pathlib import Path

from model.core.artifact import Artifact
from model.core.store import ArtifactStore, Work

REMOVALS = {  # stage -> its table of (file, row)
    "duplicate_clusters": "removed.parquet",
    "select_quality": "removed_quality.parquet",
}


def removal_table(artifact: Artifact, store: ArtifactStore) -> Path:
    """Return the table of documents that an artifact of such a stage takes out."""
    return store.path(artifact) / REMOVALS[artifact.stage]


def removal_tables(work: Work) -> tuple[Path, ...]:
    """Return the tables of all inputs that take documents out, whatever their role."""
    return tuple(
        removal_table(item, work.store)
        for items in work.derivation.inputs.values()
        for item in items
        if item.stage in REMOVALS
    )
