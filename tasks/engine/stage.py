"""A stage: one Prefect task that makes an artifact, or finds it cached.

A module in ``tasks/stages/`` defines its stage as ``Stage(<Outputs>, version=..., build=build)``;
the flows hand stages to ``tasks.engine.pipeline``. The manifest in the store alone decides whether
a stage is done (``make_artifact``); the Prefect state ``Cached`` only shows it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from model.core.artifact import Artifact, Derivation
from model.core.config import Config
from model.core.errors import TransientDownloadError
from model.core.outputs import Outputs
from model.core.store import ArtifactStore, Work
from tasks.engine.terminal import show_errors_briefly

DATA_ROOT_VARIABLE = "LLM_DATA_ROOT"


def data_root() -> Path:
    """Return the directory of all artifacts: ``$LLM_DATA_ROOT``, or ``./data``."""
    return Path(os.environ.get(DATA_ROOT_VARIABLE) or "data").absolute()


class ResourceShare(Config):
    """What one running stage may use of the machine."""

    threads: int
    memory_bytes: int


class Build(Protocol):
    """The body of a stage: fill ``work.path``, count what went in and out."""

    def __call__(self, work: Work, config: Any, share: ResourceShare) -> None:
        """Make the artifact in ``work.path``."""
        ...


Inputs = Mapping[str, Artifact | Sequence[Artifact]]


@dataclass(frozen=True)
class Stage:
    """One box of the DAG."""

    # Names the stage (module, Prefect task, directory of its artifacts), its files and its numbers.
    outputs: type[Outputs[Any, Any]]
    version: int  # raised when the same inputs and config would make other bytes
    build: Build  # the body, a module-level function
    # ``shard`` stages share the machine among workers, ``corpus`` stages have it for themselves,
    # ``child`` stages only watch a child process, which makes the artifact.
    scope: Literal["shard", "corpus", "child"] = "shard"
    resume: bool = False  # the body resumes what a killed attempt left in the work directory
    retries: int = 0  # attempts after a transient download error
    # Name and version of algorithms that fix bytes.
    algorithms: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of module, Prefect task and directory of artifacts."""
        return self.outputs.stage

    def derive(self, name: str, *, config: Config, inputs: Inputs) -> Derivation:
        """Return how the artifact ``name`` of this stage is made."""
        return Derivation(
            stage=self.name,
            name=name,
            version=self.version,
            config=config.semantic(),
            inputs={
                role: (items,) if isinstance(items, Artifact) else tuple(items)
                for role, items in inputs.items()
            },
            algorithms=dict(self.algorithms),
        )

    @property
    def prefect_task(self) -> Task[..., Any]:
        """The Prefect task that runs this stage, under its name."""
        return make_artifact.with_options(
            name=self.name,
            retries=self.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=_is_transient,
        )


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), TransientDownloadError)


@dataclass(frozen=True)
class Call:
    """One stage with everything its body needs, ready to cross into another process."""

    stage: Stage
    derivation: Derivation
    config: Config
    share: ResourceShare
    root: Path


@task(
    task_run_name="{call.derivation.stage}-{call.derivation.name}",
    persist_result=False,
    log_prints=False,
)
def make_artifact(call: Call) -> Artifact | State[Artifact]:
    """Make the artifact of a call, unless a complete one whose inputs are unchanged is there."""
    let_logs_through()
    store = ArtifactStore(call.root)
    artifact = call.derivation.artifact
    if store.status(call.derivation).state == "complete":
        return cached_state(artifact)
    run_body(call, store)
    return artifact


def let_logs_through() -> None:
    """Let Prefect have the INFO lines of our own modules; it adds handlers but sets no level.

    The terminal gets expected errors in one line: their message ends a flow's command.
    """
    show_errors_briefly()
    for name in ("flows", "tasks", "model"):
        logging.getLogger(name).setLevel(logging.INFO)


def run_body(call: Call, store: ArtifactStore) -> None:
    """Run the body of a stage, under the store's lock unless a child process takes it."""
    run_id = flow_run.id

    def body(work: Work) -> None:
        work.prefect_flow_run_id = str(run_id) if run_id else None
        call.stage.build(work, call.config, call.share)

    if call.stage.scope == "child":
        body(Work(store.work_path(call.derivation.artifact), call.derivation, store))
        store.read_manifest(call.derivation.artifact)  # raises if the child left none
    else:
        store.build(call.derivation, body, resume=call.stage.resume)


def cached_state(artifact: Artifact) -> State[Artifact]:
    """Return the Prefect state of a stage that had nothing to do."""
    message = f"{artifact.relative_path} is complete"
    return Completed(name="Cached", message=message, data=artifact)
