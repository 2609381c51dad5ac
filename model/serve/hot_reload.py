"""Model sources, and hot reload of the served model when its source resolves to another version.

A source is a folder, the newest export, or an alias of the registry. A new version is loaded beside
the old one; new requests go to it once it is ready, running ones end on the old one. If the source
cannot be resolved or a version cannot be loaded, the loaded model stays and /health reports why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from model.config.outputs import ExportModelOutputs
from model.core.errors import ArtifactError, LLMError
from model.core.store import ArtifactStore
from model.export.hf_reader import CONFIG_NAME, PretrainedModel, load_pretrained
from model.export.registry import CHAMPION, AliasSource
from model.network.weights import WEIGHTS_NAME
from model.serve.worker import GenerationWorker

logger = logging.getLogger(__name__)

DATA_ROOT_VARIABLE = "LLM_DATA_ROOT"
REGISTRY_PREFIX = "models:/"
CACHE_FOLDER = ".registered"  # below the data root: folders of registered versions


class ModelSource(Protocol):
    """A name that resolves to one version of a model now, and maybe to another later."""

    @property
    def name(self) -> str:
        """The model's name for clients."""
        ...

    def resolve(self) -> tuple[str, Path]:
        """Return the current version and its exported folder.

        Raises:
            LLMError: there is none.
        """
        ...


class FolderSource:
    """An exported folder; a new version whenever its weights or settings are rewritten."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder.resolve()
        is_export = path == ExportModelOutputs(path.parent).folder
        self.name = path.parent.name if is_export else path.name

    def resolve(self) -> tuple[str, Path]:
        """Return a version made of the files' times and sizes, and the folder."""
        try:
            found = [(self.folder / name).stat() for name in (CONFIG_NAME, WEIGHTS_NAME)]
        except OSError as exc:
            raise ArtifactError(
                "there is no model to serve",
                expected=f"an exported folder with {CONFIG_NAME} and {WEIGHTS_NAME}",
                found=exc,
                where=self.folder,
                fix="name the folder of an export: <data root>/export_model/<name>/model",
            ) from exc
        facts = (f"{item.st_mtime_ns:x}-{item.st_size:x}" for item in found)
        return "-".join(facts), self.folder


class NewestExport:
    """The newest exported chat model below a data root, or the newest export without one."""

    def __init__(self, data_root: Path) -> None:
        self._store = ArtifactStore(data_root)
        self.name = "newest"

    def resolve(self) -> tuple[str, Path]:
        """Return an artifact's key and the exported folder in it."""
        exports = ExportModelOutputs.manifests(self._store)
        if not exports:
            raise ArtifactError(
                "no model was exported yet",
                expected=f"an artifact of the stage {ExportModelOutputs.stage}",
                found="none",
                where=self._store.root,
                fix="run `make demo`, or name a folder: --model <folder>",
            )
        newest = max(exports, key=lambda it: ("chat" in it.artifact.name, it.origin.created_at))
        return newest.artifact.key, ExportModelOutputs.of(self._store, newest.artifact).folder


def find_source(model: str | None) -> ModelSource:
    """Return the source for the ``--model`` of a command line.

    Args:
        model: an exported folder, or ``models:/<name>@<alias>`` (the champion without an alias);
            unset: the newest export below ``$LLM_DATA_ROOT``.
    """
    data_root = Path(os.environ.get(DATA_ROOT_VARIABLE) or "data")
    if not model:
        return NewestExport(data_root)
    if model.startswith(REGISTRY_PREFIX):
        name, _, alias = model.removeprefix(REGISTRY_PREFIX).partition("@")
        return AliasSource(name, data_root / CACHE_FOLDER, alias or CHAMPION)
    return FolderSource(Path(model))


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model in memory, with the worker that generates with it."""

    name: str
    version: str
    folder: Path
    since: int  # seconds since 1970
    worker: GenerationWorker

    @property
    def pretrained(self) -> PretrainedModel:
        """The model, its tokenizer and default sampling."""
        return self.worker.pretrained


class ModelHost:
    """Holds the version that takes new requests; ``on_step`` is for ``GenerationWorker``."""

    def __init__(
        self,
        source: ModelSource,
        *,
        num_slots: int,
        max_waiting: int,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._start_worker = partial(
            GenerationWorker, num_slots=num_slots, max_waiting=max_waiting, on_step=on_step
        )
        self._loaded: LoadedModel | None = None
        self.problem: str | None = None
        self.num_swaps = 0

    @property
    def loaded(self) -> LoadedModel:
        """The version that takes new requests."""
        assert self._loaded, "load() comes first"
        return self._loaded

    async def load(self) -> None:
        """Load the source's current version, unless it is loaded already.

        Raises:
            LLMError: the source cannot be resolved, or its folder cannot be loaded.
        """
        version, folder = await asyncio.to_thread(self._source.resolve)
        if self._loaded and version == self._loaded.version:
            return
        pretrained = await asyncio.to_thread(load_pretrained, folder)
        loop = asyncio.get_running_loop()
        worker = await asyncio.to_thread(self._start_worker, pretrained, loop=loop)
        old, now = self._loaded, int(time.time())
        self._loaded = LoadedModel(self._source.name, version, folder, now, worker)
        logger.info("serving %s, version %s, from %s", self._source.name, version, folder)
        if old:
            self.num_swaps += 1
            old.worker.close()

    async def watch(self, *, every_seconds: float) -> None:
        """Refresh periodically until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Load a new version, or keep the loaded one and note the problem; each is logged once."""
        try:
            await self.load()
        except (LLMError, OSError) as exc:
            if str(exc) != self.problem:
                logger.warning("still serving the loaded model: %s", exc)
            self.problem = str(exc)
        else:
            self.problem = None

    def close(self) -> None:
        """Stop the worker once its open requests have ended."""
        if self._loaded:
            self._loaded.worker.close()
