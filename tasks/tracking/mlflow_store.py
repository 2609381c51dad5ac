"""Client of the MLflow tracking store: its address, runs, metrics, data sets and models.

    <project>/.mlflow/mlflow.db                  runs, metrics, registered models
    <project>/.mlflow/artifacts/<experiment>/    files of runs, uploaded models

unless ``MLFLOW_TRACKING_URI`` names another store. Only explicit clients are used: MLflow's module
functions work on a process-wide address, which they also write into the environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
)
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.telemetry import set_telemetry_client
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_MODEL_IS_EXTERNAL,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_USER,
)
from sqlalchemy.exc import SQLAlchemyError

from model.core.errors import RegistryError
from model.export.registry import SQLITE_PREFIX, tracking_uri

DEFAULTS = {  # of this process and its children, where the user set nothing
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # its own 7 take minutes
}
PROBE_SECONDS = 5.0
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
MAX_BATCH_PARAMS = 100  # MLflow's limit per call
MAX_BATCH_METRICS = 1000  # MLflow's limit per call
MAX_PARAM_CHARS = 6000  # MLflow's limit
MAX_DIGEST_CHARS = 32  # MLflow takes up to 36
KEY_TAG = "llm.artifact_key"

# What an unreachable, full, or refusing store raises.
STORE_ERRORS = (MlflowException, OSError, SQLAlchemyError, sqlite3.Error)

Context = Literal["source", "training", "validation"]
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


def shown_address(uri: str) -> str:
    """Return an address without the user and password it may hold."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)


def check_reachable(uri: str) -> None:
    """Return if something answers at an address.

    MLflow finds out by itself, but only after minutes of retries.

    Raises:
        OSError: nothing answers.
        sqlite3.Error: the file is no database, or cannot be opened.
    """
    path = _database_path(uri)
    if path:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
        return
    parts = urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=PROBE_SECONDS).close()


def open_client() -> MlflowClient:
    """Return a client of the store that is configured.

    Raises:
        RegistryError: there is none yet, or nothing answers.
    """
    uri = tracking_uri()
    _set_defaults()
    database = _database_path(uri)
    try:
        if database and not database.exists():  # a client would make an empty one
            raise FileNotFoundError(f"no file {database}")
        check_reachable(uri)
    except STORE_ERRORS as exc:
        raise RegistryError(
            "the MLflow store cannot be reached",
            expected="a database or a server of MLflow",
            found=str(exc).partition("\n")[0],
            where=shown_address(uri),
            fix="start it, train a model first (`make demo`), or set MLFLOW_TRACKING_URI",
        ) from exc
    return MlflowClient(tracking_uri=uri)


def _database_path(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE_PREFIX)) if uri.startswith(SQLITE_PREFIX) else None


@dataclass(frozen=True)
class DataSet:
    """Data that went into a run, by reference."""

    name: str
    digest: str  # any hex digest; MLflow gets its first digits
    context: Context  # what it served for
    uri: str  # where it lies; for artifacts, the path below the data root
    profile: Mapping[str, int] = field(default_factory=dict)  # counts worth showing

    def as_input(self) -> DatasetInput:
        """Return it as MLflow wants it."""
        entity = Dataset(
            name=self.name,
            digest=self.digest[:MAX_DIGEST_CHARS],
            source_type="local",
            source=json.dumps({"uri": self.uri}),
            profile=json.dumps(dict(self.profile)),
        )
        return DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, self.context)])


@dataclass(frozen=True)
class RunStore:
    """One experiment of an MLflow store."""

    client: MlflowClient
    uri: str
    experiment_id: str

    @classmethod
    def open(cls, uri: str, *, experiment: str) -> RunStore:
        """Return an experiment; a local store and the experiment are made if they are not there.

        Raises:
            STORE_ERRORS: the store cannot be reached, opened or written.
        """
        _set_defaults()
        database = _database_path(uri)
        with _lock(database.parent / "lock") if database else contextlib.nullcontext():
            check_reachable(uri)
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                found = _make_experiment(client, experiment, database)
        return cls(client, uri, found.experiment_id)

    @classmethod
    def beside(cls, uri: str, *, run_id: str) -> RunStore:
        """Return the experiment that holds a run."""
        _set_defaults()
        check_reachable(uri)
        client = MlflowClient(tracking_uri=uri)
        return cls(client, uri, client.get_run(run_id).info.experiment_id)

    def run_url(self, run_id: str) -> str | None:
        """Return the page of a run, if a server shows it."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        address = shown_address(self.uri).rstrip("/")
        return f"{address}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def create_run(
        self,
        name: str,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        start_seconds: float | None = None,
    ) -> str:
        """Start a run and return its id.

        Args:
            start_seconds: Unix time at which it began, if not now.
        """
        parent = {MLFLOW_PARENT_RUN_ID: parent_run_id} if parent_run_id else {}
        user = {MLFLOW_USER: psutil.Process().username()}
        run = self.client.create_run(
            self.experiment_id,
            start_time=_milliseconds(start_seconds),
            tags={**user, **tags, **parent},
            run_name=name,
        )
        self.log_params(run.info.run_id, params)
        return run.info.run_id

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters, cut to the length MLflow takes."""
        items = [Param(key, value[:MAX_PARAM_CHARS]) for key, value in params.items()]
        for start in range(0, len(items), MAX_BATCH_PARAMS):
            self.client.log_batch(run_id, params=items[start : start + MAX_BATCH_PARAMS])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def end_run(self, run_id: str, status: RunStatus, *, end_seconds: float | None = None) -> None:
        """End a run with a status.

        Args:
            end_seconds: Unix time at which it ended, if not now.
        """
        self.client.set_terminated(run_id, status, end_time=_milliseconds(end_seconds))

    def runs_of(self, key: str) -> list[Run]:
        """Return the runs that made the artifact of a key, newest first."""
        return self._runs(KEY_TAG, key)

    def children_of(self, run_id: str) -> list[Run]:
        """Return the runs nested in a run, newest first."""
        return self._runs(MLFLOW_PARENT_RUN_ID, run_id)

    def _runs(self, tag: str, value: str) -> list[Run]:
        found = self.client.search_runs(
            [self.experiment_id],
            f"tags.`{tag}` = '{value}'",
            order_by=["attributes.start_time DESC"],
        )
        return list(found)

    def adopt(self, run_id: str, *, parent_run_id: str) -> None:
        """Make a run a running child of another, whatever it was before."""
        self.nest(run_id, parent_run_id=parent_run_id)
        self.client.update_run(run_id, status="RUNNING")

    def nest(self, run_id: str, *, parent_run_id: str) -> None:
        """Make a run a child of another."""
        self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent_run_id)

    def log_values(self, run_id: str, values: Mapping[str, float], *, step: int) -> None:
        """Log one value of each metric, now."""
        now = round(time.time() * 1000)
        self.log_metrics(run_id, [Metric(key, value, now, step) for key, value in values.items()])

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Log any number of metric points."""
        for start in range(0, len(metrics), MAX_BATCH_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH_METRICS])

    def points_at(self, run_id: str, step: int, *, keys: Sequence[str]) -> list[Metric]:
        """Return the points a run has at a step, of some metrics."""
        histories = (self.client.get_metric_history(run_id, key) for key in keys)
        return [point for history in histories for point in history if point.step == step]

    def last_points(self, run_id: str) -> list[Metric]:
        """Return the newest point of every metric of a run, the machine's load left out."""
        keys = self.client.get_run(run_id).data.metrics.keys()
        histories = (
            self.client.get_metric_history(run_id, key)
            for key in keys
            if not key.startswith("system/")
        )
        return [max(history, key=lambda point: point.step) for history in histories]

    def models_of(self, run_id: str) -> dict[str, LoggedModel]:
        """Return the finished models of a run, by name."""
        made_by_run = f"source_run_id = '{run_id}'"
        page = self.client.search_logged_models([self.experiment_id], made_by_run)
        models = list(page)
        while page.token:
            page = self.client.search_logged_models(
                [self.experiment_id], made_by_run, page_token=page.token
            )
            models += page
        return {model.name: model for model in models if model.status == LoggedModelStatus.READY}

    def create_external_model(
        self, name: str, *, run_id: str, tags: Mapping[str, str], model_type: str
    ) -> LoggedModel:
        """Register a model whose files stay where they are."""
        model = self.client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=run_id,
            tags={**tags, MLFLOW_MODEL_IS_EXTERNAL: "true"},
            model_type=model_type,
        )
        return self.client.finalize_logged_model(model.model_id, "READY")

    def link_model(
        self, model: LoggedModel, *, run_id: str, step: int, points: Sequence[Metric]
    ) -> None:
        """Make a model an output of a run at a step, with the run's points as its own.

        What is there already is not added again.
        """
        known = {(item.key, item.step) for item in model.metrics or ()}
        missing = [item for item in points if (item.key, item.step) not in known]
        own = [
            # Key, value, time and step as the run has them: MLflow keeps such a point once.
            Metric(item.key, item.value, item.timestamp, item.step, model_id=model.model_id)
            for item in missing
        ]
        self.log_metrics(run_id, own)
        outputs = self.client.get_run(run_id).outputs
        linked = {item.model_id for item in outputs.model_outputs} if outputs else set()
        if model.model_id not in linked:  # a second time is an error to MLflow
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])

    def log_table(self, run_id: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Log rows of equal columns as a file that MLflow shows as a table.

        The client's own ``log_table`` would do, but for a warning of pandas at every call.
        """
        columns = list(rows[0])
        table = {"columns": columns, "data": [[row[key] for key in columns] for row in rows]}
        self.client.log_dict(run_id, table, name)
        tags = self.client.get_run(run_id).data.tags
        files = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in files:
            self.client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*files, entry]))

    def log_data_sets(self, run_id: str, data_sets: Sequence[DataSet]) -> None:
        """Log what went into a run; what is there already is not added again."""
        self.client.log_inputs(run_id, [item.as_input() for item in data_sets])

    def start_system_metrics(self, run_id: str) -> SystemMetricsMonitor:
        """Start a thread that logs load and memory of this machine to a run."""
        monitor = SystemMetricsMonitor(run_id, tracking_uri=self.uri)
        monitor.start()
        return monitor


def _set_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    set_telemetry_client()  # MLflow read the variable when it was imported


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time make a local store: MLflow's schema creation does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_experiment(client: MlflowClient, name: str, database: Path | None) -> Experiment:
    """Create an experiment, unless another process was faster; a server places its files."""
    location = (database.absolute().parent / "artifacts" / name).as_uri() if database else None
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings as dotted names and texts.

    Example:
        ``{"train": {"steps": 700, "tokens": None}}`` becomes
        ``{"train.steps": "700", "train.tokens": "unset"}``.
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": text for inner, text in flatten(value).items()}
        elif value is None:
            flat[name] = "unset"
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat
