"""Event log of a training, ``events.jsonl``, and its copy in MLflow.

One JSON object per line, append-only:

    {"time": 1795000000.0, "kind": "train", "step": 20, "train/loss": 5.1, ...}

``kind`` is one of ``EventKind``; ``step`` counts optimizer steps done; keys with a slash are
metrics, ``message`` is for people. A killed run repeats some steps: ``read_events`` returns each
step once. The file is the record; MLflow is a copy that may lag or fail without affecting training,
and ``replay`` completes it. No torch here: flows read events.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.config.outputs import EVENTS_NAME
from model.config.train import TrackingConfig
from model.core.errors import ArtifactError

logger = logging.getLogger(__name__)

EventKind = Literal[
    "start", "resume", "train", "validation", "checkpoint", "sample", "end",
    "smoke_run", "extended", "repetition", "micro_batch", "skipped",
]  # fmt: skip
Event = dict[str, Any]

FLUSH_SECONDS = 3.0
CLOSE_SECONDS = 20.0  # longest wait for MLflow when training is over
MAX_WAITING_METRICS = 100_000
MAX_BATCH_METRICS = 1000  # MLflow's limit per call
HTTP_LIMITS = {  # MLflow's own defaults wait for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def read_events(path: Path) -> list[Event]:
    """Return the valid events: each step once, as the last attempt recorded it.

    A start or resume at step k voids earlier events above k; of two events of one kind and step the
    later wins. An incomplete last line is ignored.

    Raises:
        ArtifactError: a line is not a JSON object with kind and step.
    """
    held: dict[tuple[str, int], Event] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        event = _parse(line, where=f"{path}:{number}")
        if event["kind"] in ("start", "resume"):
            held = {key: value for key, value in held.items() if key[1] <= event["step"]}
        held[event["kind"], event["step"]] = event
    return list(held.values())


def _parse(line: str, *, where: str) -> Event:
    try:
        event = json.loads(line)
        if isinstance(event["kind"], str) and isinstance(event["step"], int):
            return event
        found = line
    except (ValueError, TypeError, KeyError) as exc:
        found = f"{exc!r} in {line[:80]!r}"
    raise ArtifactError(
        "a line of the event log is broken",
        expected='a JSON object with "kind" and "step"',
        found=found,
        where=where,
        fix="delete the line; the other events are valid",
    )


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric."""

    key: str
    value: float
    time: float
    step: int


def metric_points(event: Event) -> list[MetricPoint]:
    """Return the metrics of an event: its numbers under keys with a slash."""
    return [
        MetricPoint(key, float(value), float(event["time"]), int(event["step"]))
        for key, value in event.items()
        if "/" in key and isinstance(value, int | float)
    ]


class Tracker:
    """Appends events to a file, and forwards their metrics to an MLflow run, if one is given."""

    def __init__(self, path: Path, *, tracking: TrackingConfig) -> None:
        self.path = path
        _cut_torn_line(path)
        self._sink = None
        if tracking.uri and tracking.run_id:
            self._sink = MlflowSink(tracking.uri, run_id=tracking.run_id)

    def record(self, kind: EventKind, *, step: int, **values: object) -> None:
        """Append one event; it is in the file when this returns."""
        event: Event = {"time": round(time.time(), 3), "kind": kind, "step": step, **values}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(event, allow_nan=False) + "\n")
        if self._sink:
            self._sink.add(metric_points(event))

    def close(self) -> None:
        """Flush the metrics to MLflow, within ``CLOSE_SECONDS``."""
        if self._sink:
            self._sink.close()


def _cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line of a killed process."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


class MlflowSink:
    """Copies metrics to an MLflow run from a thread of its own.

    A failure is logged once and retried with the next batch: training neither waits nor stops.
    Points the run already has are not sent again.
    """

    def __init__(self, uri: str, *, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._waiting: queue.Queue[MetricPoint] = queue.Queue(MAX_WAITING_METRICS)
        self._closing = threading.Event()
        self._has_warned = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, points: Iterable[MetricPoint]) -> None:
        """Queue points without blocking. What does not fit is left to ``replay``."""
        with contextlib.suppress(queue.Full):
            for point in points:
                self._waiting.put_nowait(point)

    def close(self) -> None:
        """Send what is left and end the thread, within ``CLOSE_SECONDS``."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._warn("no answer in time")

    def _work(self) -> None:
        for name, value in HTTP_LIMITS.items():
            os.environ.setdefault(name, value)
        unsent: list[MetricPoint] = []
        copy: _RunCopy | None = None
        is_last = False
        while not is_last:
            is_last = self._closing.wait(FLUSH_SECONDS)
            unsent += self._drain(MAX_WAITING_METRICS - len(unsent))
            try:
                copy = copy or _RunCopy.open(self.uri, run_id=self.run_id)
                copy.send(unsent)
                unsent = []
            except Exception as exc:  # noqa: BLE001 - a tracking failure must never end training
                self._warn(exc)

    def _drain(self, limit: int) -> list[MetricPoint]:
        points: list[MetricPoint] = []
        with contextlib.suppress(queue.Empty):
            while len(points) < limit:
                points.append(self._waiting.get_nowait())
        return points

    def _warn(self, reason: object) -> None:
        if not self._has_warned:
            logger.warning(
                "MLflow at %s does not accept metrics (%s); training continues, %s has them all",
                self.uri,
                str(reason).splitlines()[0] if str(reason) else repr(reason),
                EVENTS_NAME,
            )
        self._has_warned = True


def replay(events_path: Path, *, uri: str, run_id: str) -> int:
    """Send an MLflow run the metrics of ``events.jsonl`` it lacks, and return their number."""
    points = [point for event in read_events(events_path) for point in metric_points(event)]
    return _RunCopy.open(uri, run_id=run_id).send(points)


@dataclass
class _RunCopy:
    """An MLflow run and the points it has."""

    client: Any
    run_id: str
    sent: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def open(cls, uri: str, *, run_id: str) -> _RunCopy:
        from mlflow import MlflowClient  # takes seconds to import

        client = MlflowClient(tracking_uri=uri)
        keys = client.get_run(run_id).data.metrics
        points = (item for key in keys for item in client.get_metric_history(run_id, key))
        return cls(client, run_id, {(item.key, item.step) for item in points})

    def send(self, points: Sequence[MetricPoint]) -> int:
        """Send the points the run lacks, and return their number."""
        from mlflow.entities import Metric

        missing = {(item.key, item.step): item for item in points}
        new = [item for key, item in missing.items() if key not in self.sent]
        for start in range(0, len(new), MAX_BATCH_METRICS):
            batch = new[start : start + MAX_BATCH_METRICS]
            metrics = [
                Metric(item.key, item.value, round(item.time * 1000), item.step) for item in batch
            ]
            self.client.log_batch(self.run_id, metrics=metrics)
            self.sent |= {(item.key, item.step) for item in batch}
        return len(new)
