"""Run or plan the stages of one pipeline run, each once its inputs are made.

The flows describe the DAG once, as calls of ``Pipeline.add``. Keys derive from keys, so a dry run
makes the same calls and knows every artifact without making any.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from prefect.client.schemas.objects import RunInput, State, TaskRunResult
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from model.core.artifact import Artifact, Derivation
from model.core.config import Config
from model.core.processes import num_cores, watch_parent
from model.core.store import ArtifactStore, Status
from tasks.config.run import RunConfig
from tasks.engine.stage import Call, Inputs, ResourceShare, Stage
from tasks.engine.task_runners import extra_runner

logger = logging.getLogger(__name__)

Outcome = Literal["planned", "cached", "running", "made"]


@dataclass
class Step:
    """One stage of one run, and its outcome."""

    stage: Stage
    derivation: Derivation
    config: Config
    status: Status
    outcome: Outcome = "planned"
    handle: PrefectFuture[Any] | State[Any] | None = None

    @property
    def artifact(self) -> Artifact:
        """What the step makes."""
        return self.derivation.artifact


class Pipeline:
    """The stages of one run, in the order in which the flow names them.

    Args:
        store: the artifact store.
        run: workers and memory.
        runner: the started task runner of per-file stages; ``None`` plans only, nothing is run.
        tracking_run_id: MLflow run that trainings report to as its children.
    """

    def __init__(
        self,
        store: ArtifactStore,
        run: RunConfig,
        *,
        runner: TaskRunner[Any] | None = None,
        tracking_run_id: str | None = None,
    ) -> None:
        self.store = store
        self.run = run
        self.runner = runner
        self.tracking_run_id = tracking_run_id
        self.steps: dict[str, Step] = {}

    def add(self, stage: Stage, name: str, *, config: Config, inputs: Inputs) -> Artifact:
        """Run a stage, or start it on the task runner, and return the artifact it makes.

        Waits until the inputs are made. Blocks for a cached stage and for one whose artifact a
        child process makes; any other is submitted, and this returns at once. A stage that was
        added before is not started again.
        """
        derivation = stage.derive(name, config=config, inputs=inputs)
        if derivation.key in self.steps:
            return derivation.artifact
        needed = [item for items in derivation.inputs.values() for item in items]
        for item in needed:
            self.wait(item)
        step = Step(stage, derivation, config, self.store.status(derivation))
        self.steps[derivation.key] = step
        if self.runner:
            call = Call(stage, derivation, config, self._share(stage), self.store.root)
            self._start(step, call, self.runner, self._handles(needed))
        return step.artifact

    def reporting_to(self, tracking_run_id: str | None) -> Pipeline:
        """Return the same pipeline with trainings reported to another MLflow run from here on."""
        other = copy.copy(self)  # the steps are one and the same
        other.tracking_run_id = tracking_run_id
        return other

    def wait(self, artifact: Artifact) -> None:
        """Return when an artifact of this run is made; raise what its stage raised."""
        step = self.steps.get(artifact.key)
        if step and isinstance(step.handle, PrefectFuture):
            step.handle.wait()
            step.handle = step.handle.state
            step.handle.result(raise_on_failure=True)
            step.outcome = "made"

    def finish(self) -> list[Step]:
        """Wait for every step and return them all."""
        for step in self.steps.values():
            self.wait(step.artifact)
        return list(self.steps.values())

    def _start(
        self, step: Step, call: Call, runner: TaskRunner[Any], needed: list[State[Any]]
    ) -> None:
        task = step.stage.prefect_task
        complete = step.status.state == "complete"
        if not complete:
            logger.info("%s runs: %s", step.artifact.relative_path, step.status.why)
        if complete or step.stage.scope == "child":
            # In this thread: nothing is computed here, and Python handles signals in it alone.
            state: State[Any] = task(call, wait_for=needed, return_state=True)
            state.result(raise_on_failure=True)
            step.handle = state
            step.outcome = "cached" if complete else "made"
        else:
            dependencies: dict[str, set[RunInput]] = {
                "call": {_run_input(state) for state in needed}  # type: ignore[misc]
            }
            step.handle = runner.submit(task, {"call": call}, dependencies=dependencies)
            step.outcome = "running"

    def _handles(self, needed: list[Artifact]) -> list[State[Any]]:
        """Return the states that Prefect shows as edges of the run graph."""
        steps = [self.steps.get(item.key) for item in needed]
        return [step.handle for step in steps if step and isinstance(step.handle, State)]

    def _share(self, stage: Stage) -> ResourceShare:
        workers = num_workers(self.run) if stage.scope == "shard" else 1
        return ResourceShare(
            threads=max(1, num_cores() // workers),
            memory_bytes=memory_bytes(self.run) // workers,
        )


def _run_input(state: State[Any]) -> TaskRunResult:
    task_run_id = state.state_details.task_run_id
    assert task_run_id
    return TaskRunResult(id=task_run_id)


def task_runner(run: RunConfig) -> TaskRunner[Any]:
    """Return the task runner of per-file stages.

    Raises:
        ConfigError: it is an optional extra that is not installed.
    """
    if run.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=num_workers(run))
    if run.task_runner in ("ray", "dask"):
        return extra_runner(run.task_runner, workers=num_workers(run))
    return ProcessPoolTaskRunner(
        max_workers=num_workers(run), initializer=_begin_worker, initargs=(os.getpid(),)
    )


def _begin_worker(parent: int) -> None:
    watch_parent(parent)  # a killed flow cannot stop its workers
    silence_stderr_at_exit()


def silence_stderr_at_exit() -> None:
    """Keep DuckDB's binding from listing its own objects as leaked when this process ends.

    The list is cosmetic: nanobind prints it, after the interpreter is gone, in any process that
    ran Prefect's threads. All output of the run was written before.
    """

    def close_stderr() -> None:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    atexit.register(close_stderr)


def num_workers(run: RunConfig) -> int:
    """Return how many per-file stages run at once."""
    return run.workers or num_cores()


def memory_bytes(run: RunConfig) -> int:
    """Return what all data stages may use together."""
    if run.memory_gb:
        return int(run.memory_gb * 1e9)
    return psutil.virtual_memory().total // 2


def project_root() -> Path:
    """Return the directory that holds ``flows/``, ``tasks/`` and ``model/``."""
    return Path(__file__).resolve().parents[2]
