"""The model a server writes with, changed while it runs when its source points elsewhere.

A new version is loaded beside the old one; new requests go to it once it is ready, those under way
end on the old one. If the source points nowhere, or a version cannot be loaded, the model that is
loaded goes on and the problem is told to whoever asks for the server's health.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.core.errors import LLMError
from model.inference.pretrained import Pretrained, load_pretrained
from model.serve.model_sources import ModelSource
from model.serve.worker import WritingThread

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One version of a model, ready to write."""

    name: str
    version: str
    folder: Path
    since: int  # seconds since 1970
    thread: WritingThread

    @property
    def pretrained(self) -> Pretrained:
        """Return the model, its tokenizer and usual settings."""
        return self.thread.pretrained


class ModelHost:
    """Holds the version that answers new requests.

    Args:
        on_step: passed to every ``WritingThread``.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        max_rows: int,
        max_waiting: int,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._limits = {"max_rows": max_rows, "max_waiting": max_waiting}
        self._on_step = on_step
        self._served: Served | None = None
        self.problem: str | None = None
        self.num_swaps = 0

    @property
    def served(self) -> Served:
        """Return the version that takes new requests."""
        assert self._served, "load() comes first"
        return self._served

    async def load(self) -> None:
        """Take the version the source points at, unless it is the one that is loaded.

        Raises:
            LLMError: the source points nowhere, or its folder cannot be loaded.
        """
        version, folder = await asyncio.to_thread(self._source.resolve)
        if self._served and version == self._served.version:
            return
        pretrained = await asyncio.to_thread(load_pretrained, folder)
        thread = await asyncio.to_thread(self._start, pretrained, asyncio.get_running_loop())
        old, now = self._served, int(time.time())
        self._served = Served(self._source.name, version, folder, now, thread)
        logger.info("serving %s, version %s, from %s", self._source.name, version, folder)
        if old:
            self.num_swaps += 1
            old.thread.close()

    def _start(self, pretrained: Pretrained, loop: asyncio.AbstractEventLoop) -> WritingThread:
        return WritingThread(pretrained, loop=loop, on_step=self._on_step, **self._limits)

    async def watch(self, *, every_seconds: float) -> None:
        """Follow the source for ever; problems are logged once and kept in ``problem``."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.refresh()

    async def refresh(self) -> None:
        """Look at the source once and keep what is loaded if that fails."""
        try:
            await self.load()
        except (LLMError, OSError) as exc:
            if str(exc) != self.problem:
                logger.warning("still serving the loaded model: %s", exc)
            self.problem = str(exc)
        else:
            self.problem = None

    def close(self) -> None:
        """Stop writing once the answers under way have ended."""
        if self._served:
            self._served.thread.close()
