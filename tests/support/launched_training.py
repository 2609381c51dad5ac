"""Trainings started as a flow starts them, with something done to them on the way."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from model.config.outputs import TrainModelOutputs
from model.config.runs import TrainRun
from model.core.store import ArtifactStore, Work
from model.train.events import read_events
from tasks.engine.child import Child
from tasks.engine.launchers import choose_launcher


def work_of(run: TrainRun) -> Work:
    store = ArtifactStore(Path(run.data_root))
    return Work(store.work_path(run.derivation.artifact), run.derivation, store)


def artifact_path(run: TrainRun) -> Path:
    return ArtifactStore(Path(run.data_root)).path(run.derivation.artifact)


def weights(run: TrainRun) -> bytes:
    return (artifact_path(run) / "model" / "model.safetensors").read_bytes()


def losses(run: TrainRun) -> dict[int, float]:
    events = read_events(TrainModelOutputs(artifact_path(run)).events)
    return {event["step"]: event["train/loss"] for event in events if event["kind"] == "train"}


def starts(run: TrainRun) -> list[str]:
    """Return how each attempt of a training began: ``start`` or ``resume``."""
    paths = (
        TrainModelOutputs(artifact_path(run)).events,
        TrainModelOutputs(work_of(run).path).events,
    )
    (path,) = (path for path in paths if path.exists())
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    return [kind for kind in kinds if kind in ("start", "resume")]


def last_step(path: Path) -> int:
    """Return the step of the last whole line of an event log."""
    with suppress(FileNotFoundError):
        lines = path.read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def train_here(run: TrainRun, *events: tuple[int, Callable[[Child], None]]) -> None:
    """Train with the launcher of the run's config; do things, each once, when a step is done."""
    work = work_of(run)
    work.path.parent.mkdir(parents=True, exist_ok=True)
    child = Child(work, run)
    waiting = list(events)

    def watch() -> None:
        if waiting and last_step(TrainModelOutputs(work.path).events) >= waiting[0][0]:
            _, do = waiting.pop(0)
            do(child)

    choose_launcher(run.train).run(child, watch=watch)


def processes_of(config: Path) -> dict[str, psutil.Process]:
    """Return what trains with a config file, by rank; torchrun's agent is ``agent``."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and str(config) in process.cmdline():
                found[process.environ().get("RANK", "agent")] = process
    return found


def kill(*names: str) -> Callable[[Child], None]:
    """Return what kills ranks, or the agent, of a training without a warning."""

    def do(child: Child) -> None:
        processes = processes_of(child.config)
        for name in names:
            os.kill(processes[name].pid, signal.SIGKILL)

    return do
