"""What an artifact was made from, over all levels, as far as the manifests are still there."""

from __future__ import annotations

from collections.abc import Iterator

from model.core.artifact import Artifact, Manifest
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore


def ancestors(manifest: Manifest, store: ArtifactStore) -> Iterator[Manifest]:
    """Yield all that an artifact was made from, each once, nearest first; pruned ones are left out.

    Artifacts of one level come in the order of their derivations.
    """
    seen: set[str] = set()
    level = [manifest]
    while level:
        items = {
            item.key: item
            for above in level
            for items in above.derivation.inputs.values()
            for item in items
            if item.key not in seen
        }
        seen |= items.keys()
        level = [found for item in items.values() if (found := _manifest(item, store))]
        yield from level


def find_input(manifest: Manifest, stage: str, store: ArtifactStore) -> Manifest | None:
    """Return the nearest artifact of a stage that another was made from, if it is still there."""
    found = (item for item in ancestors(manifest, store) if item.artifact.stage == stage)
    return next(found, None)


def _manifest(artifact: Artifact, store: ArtifactStore) -> Manifest | None:
    try:
        return store.read_manifest(artifact)
    except ArtifactError:  # pruned: its consumers go on without it
        return None
