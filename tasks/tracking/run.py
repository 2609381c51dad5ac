"""MLflow run of a pipeline run, with its trainings nested in it.

Nothing here may stop a pipeline. A store that cannot be reached, or fails later, costs a warning
when it happens and one at the end; the manifests and ``events.jsonl`` stay the record, and a later,
cached run of the same pipeline brings another store up to date.

Everything is idempotent: what a store has is not written again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_UI_URL
from pydantic import BaseModel

from model.config.outputs import TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.errors import ChildInterruptedError
from model.core.store import ArtifactStore, git_commit
from model.export.registry import tracking_uri
from model.train.events import read_events
from tasks.tracking.dataset_inputs import data_sets, data_tags
from tasks.tracking.mlflow_store import (
    STORE_ERRORS,
    RunStatus,
    RunStore,
    check_reachable,
    flatten,
    shown_address,
)
from tasks.tracking.training import complete_training, final_metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRAINING_RUN_TAG = "llm.training_run_id"
OUTCOME_TAG = "llm.outcome"


class TrackedPipeline:
    """The MLflow run of one pipeline run; without a store, every method does nothing.

    Args:
        uri: of the store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.address = shown_address(uri)
        self.run_id: str | None = None
        self.problems: list[str] = []
        self._runs: RunStore | None = None
        self._stop_metrics: Callable[[], None] | None = None

    @property
    def url(self) -> str | None:
        """The page of the run, if a server shows it."""
        return self._runs.run_url(self.run_id) if self._runs and self.run_id else None

    def attempt(self, doing: str, action: Callable[[RunStore, str], T]) -> T | None:
        """Return what an action on the store and this run's id returns; ``None`` if it failed.

        Args:
            doing: names the action in a warning.
        """
        if not (self._runs and self.run_id):
            return None
        try:
            check_reachable(self.uri)
            return action(self._runs, self.run_id)
        except STORE_ERRORS as exc:
            self._warn(doing, exc)
            return None

    def _warn(self, doing: str, error: Exception) -> None:
        reason = (str(error) or repr(error)).splitlines()[0]
        self.problems.append(f"{doing}: {reason}")
        logger.warning(
            "MLflow at %s failed (%s: %s); the pipeline continues", self.address, doing, reason
        )

    def record_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run."""
        self.attempt("tags", lambda runs, run_id: runs.set_tags(run_id, tags))

    def record_description(self, text: str) -> None:
        """Show markdown on the page of the run."""
        self.record_tags({MLFLOW_RUN_NOTE: text})

    def record_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, run_id: str | None = None
    ) -> None:
        """Log one value per metric, to this run or to one nested in it."""
        self.attempt(
            "metrics", lambda runs, own: runs.log_values(run_id or own, metrics, step=step)
        )

    def record_text(self, text: str, name: str) -> None:
        """Keep a text as a file of the run."""
        self.attempt(name, lambda runs, run_id: runs.client.log_text(run_id, text, name))

    def record_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Keep rows of equal columns as a table, ``name`` ending in ``.json``."""
        self.attempt(name, lambda runs, run_id: runs.log_table(run_id, rows, name))

    def record_bytes(self, content: bytes, name: str) -> None:
        """Keep a file, such as a plot."""

        def upload(runs: RunStore, run_id: str) -> None:
            with TemporaryDirectory() as directory:
                path = Path(directory) / name
                path.write_bytes(content)
                runs.client.log_artifact(run_id, str(path))

        self.attempt(name, upload)

    def record_data(self, manifests: Iterable[Manifest]) -> None:
        """Log what went into a pipeline: source, training and validation data, tokenizer.

        Args:
            manifests: of the stages of the pipeline; others than those of data do not matter.
        """
        manifests = list(manifests)
        self.record_tags(data_tags(manifests))
        self.attempt(
            "data sets", lambda runs, run_id: runs.log_data_sets(run_id, data_sets(manifests))
        )

    def complete_training(self, trained: Artifact, store: ArtifactStore) -> str | None:
        """See that a finished training has a finished run here, and return that run's id.

        Metrics the run lacks are replayed from ``events.jsonl``; every kept checkpoint becomes a
        model of the run, by reference, with its metrics. The pipeline's own run gets the final
        metrics and the training run's id.
        """
        events = read_events(TrainModelOutputs.of(store, trained).events)
        training_run_id = self._complete(trained, store)
        if training_run_id:
            self.record_tags({TRAINING_RUN_TAG: training_run_id})
        self.record_metrics(final_metrics(events), step=max(event["step"] for event in events))
        return training_run_id

    def complete_nested_training(self, trained: Artifact, store: ArtifactStore) -> str | None:
        """See that a finished training, one of several, has a finished run nested in this one.

        A run of an earlier pipeline moves here: the newest ladder shows all of its trainings.
        """
        training_run_id = self._complete(trained, store)
        if training_run_id:
            self.attempt("nesting", lambda runs, own: runs.nest(training_run_id, parent_run_id=own))
        return training_run_id

    def _complete(self, trained: Artifact, store: ArtifactStore) -> str | None:
        return self.attempt(
            "training run",
            partial(
                complete_training,
                manifest=store.read_manifest(trained),
                directory=store.path(trained),
            ),
        )

    def _open(
        self,
        *,
        experiment: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        parent_run_id: str | None,
    ) -> None:
        try:
            self._runs = RunStore.open(self.uri, experiment=experiment)
            self.run_id = self._runs.create_run(
                name, params=params, tags=tags, parent_run_id=parent_run_id
            )
            self._stop_metrics = self._runs.start_system_metrics(self.run_id).finish
        except STORE_ERRORS as exc:
            self._warn("opening a run", exc)

    def _close(self, status: RunStatus, *, outcome: str) -> None:
        if self._stop_metrics:
            self._stop_metrics()
        self.attempt("the end of the run", partial(_end, status=status, outcome=outcome))
        if self.problems:
            logger.warning(
                "MLflow at %s does not have all of this run (%s). Nothing else is lost: fix the "
                "store and run again, finished stages are cached and are reported to it again",
                self.address,
                "; ".join(self.problems),
            )


@contextmanager
def pipeline_run(
    *,
    experiment: str,
    name: str,
    config: BaseModel,
    flow: str,
    tags: Mapping[str, str] | None = None,
    parent_run_id: str | None = None,
) -> Iterator[TrackedPipeline]:
    """Open the MLflow run of a pipeline run, and close it with the status of what happened.

    Args:
        config: resolved; logged as parameters and as ``config.json``.
        flow: name of the flow.
        tags: more tags than those every run has.
        parent_run_id: of the run that this one is a part of.
    """
    tracked = TrackedPipeline(tracking_uri())
    plain = config.model_dump(mode="json")
    commit = git_commit()
    given = {
        "llm.flow": flow,
        "data.preset": plain.get("preset"),
        "git.commit": commit,
        "mlflow.source.git.commit": commit,  # where MLflow's own pages look for it
        "mlflow.source.name": flow,
    }
    every = {key: str(value) for key, value in (given | prefect_tags()).items() if value}
    tracked._open(
        experiment=experiment,
        name=name,
        params=flatten(plain),
        tags={**every, **(tags or {})},
        parent_run_id=parent_run_id,
    )
    tracked.record_text(config.model_dump_json(indent=1), "config.json")
    try:
        yield tracked
    except BaseException as error:
        is_stopped = isinstance(error, CancelledRun | ChildInterruptedError)
        is_failure = isinstance(error, Exception) and not is_stopped
        status, word = ("FAILED", "failed") if is_failure else ("KILLED", "stopped")
        first_line = str(error).partition("\n")[0]
        tracked._close(status, outcome=f"{word}: {type(error).__name__}: {first_line}")
        raise
    tracked._close("FINISHED", outcome="complete")


def prefect_tags() -> dict[str, str | None]:
    """Return which Prefect run this is; nothing outside a flow run."""
    if not FlowRunContext.get():
        return {}
    return {
        "prefect.flow_run_id": flow_run.id,
        "prefect.flow_run_name": flow_run.name,
        "prefect.deployment": deployment.name,
        "prefect.ui_url": flow_run.ui_url if PREFECT_UI_URL.value() else None,
    }


def _end(runs: RunStore, run_id: str, *, status: RunStatus, outcome: str) -> None:
    for child in runs.children_of(run_id):
        if child.info.status == "RUNNING":  # an interrupted training: the next attempt resumes it
            runs.end_run(child.info.run_id, status)
    runs.set_tags(run_id, {OUTCOME_TAG: outcome})
    runs.end_run(run_id, status)
