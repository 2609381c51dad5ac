"""Where a server or a terminal finds its model: something that names a version and its folder.

A source is asked again and again while a server runs; when its version changes, the server takes
the new folder. Here: a folder, the newest export, and by its name an alias of the registry.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from model.core.artifact import Manifest
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore
from model.export.hf_reader import CONFIG_NAME
from model.export.registry import CHAMPION, AliasSource
from model.network.weights import WEIGHTS_NAME

EXPORT_STAGE = "export_model"
EXPORT_FOLDER = "model"  # of such an artifact
DATA_ROOT_VARIABLE = "LLM_DATA_ROOT"
REGISTRY_PREFIX = "models:/"
CACHE_FOLDER = ".registered"  # below the data root: folders of registered versions


class ModelSource(Protocol):
    """A name for a model that may point at another version tomorrow."""

    @property
    def name(self) -> str:
        """Return what clients call the model."""
        ...

    def resolve(self) -> tuple[str, Path]:
        """Return the version the name points at now, and its exported folder.

        Raises:
            LLMError: it points at nothing.
        """
        ...


class FolderSource:
    """An exported folder; a new version whenever its weights or settings are written anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder.resolve()
        self.name = path.parent.name if path.name == EXPORT_FOLDER else path.name

    def resolve(self) -> tuple[str, Path]:
        """Return a version made of the files' times and sizes, and the folder.

        Raises:
            ArtifactError: the folder or one of the files is not there.
        """
        facts = []
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            try:
                found = (self.folder / name).stat()
            except OSError as exc:
                raise ArtifactError(
                    "there is no model to serve",
                    expected=f"an exported folder with {CONFIG_NAME} and {WEIGHTS_NAME}",
                    found=exc,
                    where=self.folder,
                    fix="name the folder of an export: <data root>/export_model/<name>/model",
                ) from exc
            facts.append(f"{found.st_mtime_ns:x}-{found.st_size:x}")
        return "-".join(facts), self.folder


class NewestExport:
    """The newest exported chat model below a data root, or the newest export if none chats."""

    def __init__(self, data_root: Path) -> None:
        self._store = ArtifactStore(data_root)
        self.name = "newest"

    def resolve(self) -> tuple[str, Path]:
        """Return an artifact's key and the folder in it.

        Raises:
            ArtifactError: nothing was exported yet.
        """
        exports = self._store.manifests(EXPORT_STAGE)
        if not exports:
            raise ArtifactError(
                "no model was exported yet",
                expected=f"an artifact of the stage {EXPORT_STAGE}",
                found="none",
                where=self._store.root,
                fix="run `make demo`, or name a folder: --model <folder>",
            )
        newest = max(exports, key=_rank)
        return newest.artifact.key, self._store.path(newest.artifact) / EXPORT_FOLDER


def _rank(manifest: Manifest) -> tuple[bool, str]:
    return "chat" in manifest.artifact.name, manifest.origin.created_at


def find_source(model: str | None) -> ModelSource:
    """Return the source of what a user names.

    Args:
        model: an exported folder, or ``models:/<name>@<alias>`` (the champion without an alias);
            unset: the newest export below ``$LLM_DATA_ROOT``.
    """
    data_root = Path(os.environ.get(DATA_ROOT_VARIABLE) or "data")
    if not model:
        return NewestExport(data_root)
    if model.startswith(REGISTRY_PREFIX):
        name, _, alias = model.removeprefix(REGISTRY_PREFIX).partition("@")
        return AliasSource(name, alias=alias or CHAMPION, cache=data_root / CACHE_FOLDER)
    return FolderSource(Path(model))
