"""Live progress of a training process, read from its events.jsonl.

Shown as a progress artifact of the Prefect task run, as periodic log lines, and as a bar in a
terminal.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

ARTIFACT_SECONDS = 5.0
LOG_SECONDS = 10.0


class EventTail:
    """Reader of the lines appended to a JSONL file since the last read; it may not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset_bytes = 0

    def read(self) -> list[dict[str, Any]]:
        """Return the new whole lines."""
        if not self.path.exists():
            return []
        if self.path.stat().st_size < self.offset_bytes:  # truncated by a resumed run
            self.offset_bytes = 0
        with self.path.open("rb") as handle:
            handle.seek(self.offset_bytes)
            block = handle.read()
        whole = block[: block.rfind(b"\n") + 1]
        self.offset_bytes += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class TrainingProgress:
    """Live display of one training.

    Args:
        events: the training's events.jsonl.
        num_steps: its horizon in optimizer steps.
    """

    def __init__(self, events: Path, *, num_steps: int) -> None:
        self.tail = EventTail(events)
        self.num_steps = num_steps
        self.latest: dict[str, float] = {}
        self.step = 0
        self.artifact: UUID | None = None
        self.shown_at = {"artifact": 0.0, "log": 0.0}
        self.bar: Progress | None = None
        self.bar_task: TaskID | None = None

    def __enter__(self) -> TrainingProgress:
        """Open the displays."""
        if TaskRunContext.get():
            try:
                artifact = create_progress_artifact(0.0, description="training steps done")
            except (PrefectException, HTTPError) as error:
                logger.warning("Prefect shows no progress: %s", error)
            else:
                assert isinstance(artifact, UUID)  # in a sync context
                self.artifact = artifact
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar_task = self.bar.add_task("training", total=self.num_steps)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and close the displays."""
        self.update(final=True)
        if self.bar:
            self.bar.stop()

    def update(self, *, final: bool = False) -> None:
        """Read the new events and update the displays that are due."""
        for event in self.tail.read():
            self._take(event)
        if self._due("log", LOG_SECONDS, final) and self.latest:
            logger.info(self.line())
        if self.artifact and self._due("artifact", ARTIFACT_SECONDS, final):
            self._update_artifact(self.artifact)
        if self.bar and self.bar_task is not None:
            self.bar.update(self.bar_task, completed=self.step, description=self.line())

    def _update_artifact(self, artifact: UUID) -> None:
        try:
            update_progress_artifact(artifact, 100.0 * self.step / self.num_steps)
        except (PrefectException, HTTPError) as error:  # a display never ends a training
            logger.warning("Prefect no longer shows progress: %s", error)
            self.artifact = None

    def line(self) -> str:
        """Return the latest state as one line."""
        parts = [f"step {self.step}/{self.num_steps}"]
        for key, label, form in (
            ("train/loss", "loss", ".3f"),
            ("validation/bits_per_byte", "validation bits/byte", ".4f"),
            ("validation/preference_accuracy", "preferences right", ".1%"),
            ("perf/tokens_per_second", "tokens/s", ",.0f"),
        ):
            if key in self.latest:
                parts.append(f"{label} {self.latest[key]:{form}}")
        return ", ".join(parts)

    def _take(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("step"), int):
            self.step = event["step"]
        self.latest |= {
            key: value
            for key, value in event.items()
            if "/" in key and isinstance(value, int | float)
        }
        if "message" in event:
            logger.warning("training: %s", event["message"])
        if event.get("kind") in ("resume", "checkpoint", "validation"):
            logger.info("%s at %s", event["kind"], self.line())

    def _due(self, display: str, seconds: float, final: bool) -> bool:
        now = time.monotonic()
        if not final and now - self.shown_at[display] < seconds:
            return False
        self.shown_at[display] = now
        return True
