"""MLflow runs of pipelines and trainings, against real stores."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.exceptions import TerminationSignal

from flows.settings.config import PretrainConfig
from flows.settings.presets import demo
from model.config.outputs import EVENTS_NAME, TrainModelOutputs
from model.export.registry import tracking_uri
from model.train.events import read_events, replay
from tasks.engine.pipeline import project_root
from tasks.stages.register_model import register_model
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.tracking.dataset_inputs import training_data
from tasks.tracking.mlflow_store import RunStore, check_reachable, flatten, shown_address
from tasks.tracking.run import TrackedPipeline, pipeline_run
from tasks.tracking.training import environment_tags, final_metrics, training_run
from tests.support.servers import free_port, local_mlflow_uri, mlflow_server
from tests.support.small_pipeline import SmallPipeline, event_lines, make, make_small_pipeline

# MLflow's own models use what its newest SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

CONFIG = demo()


@pytest.fixture
def experiment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an experiment of this test's own, in the local store all tests share."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    return request.node.name


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(tracking_uri=local_mlflow_uri())


def open_pipeline(experiment: str, *, config: PretrainConfig = CONFIG) -> Any:
    return pipeline_run(experiment=experiment, name="demo-1", config=config, flow="pretrain")


def runs_in(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    assert found
    return list(client.search_runs([found.experiment_id]))


def contents(client: MlflowClient, experiment: str) -> dict[str, Any]:
    """Return how much of everything an experiment holds."""
    runs = runs_in(client, experiment)
    points = [
        (run.info.run_id, key, point.step, point.value, point.timestamp)
        for run in runs
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]
    found = client.get_experiment_by_name(experiment)
    assert found
    models = client.search_logged_models([found.experiment_id])
    return {
        "trainings": sorted(run.info.run_id for run in runs if "llm.artifact_key" in run.data.tags),
        "training points": sorted(
            point
            for point in points
            for run in runs
            if run.info.run_id == point[0] and "llm.artifact_key" in run.data.tags
        ),
        "models": sorted(model.model_id for model in models),
        "model points": sum(len(model.metrics or ()) for model in models),
    }


def test_tracking_uri_is_the_projects_own_database_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{project_root()}/.mlflow/mlflow.db"
    assert tracking_uri().startswith("sqlite:////")  # absolute, whatever the working directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri() == "http://mlflow:5000"


def test_flatten_nested_settings_gives_dotted_names() -> None:
    nested = {"train": {"steps": 7, "tokens": None, "x": {}}, "on": True, "a": [1, "b"], "s": "t"}
    assert flatten(nested) == {
        "train.steps": "7",
        "train.tokens": "unset",
        "train.x": "{}",
        "on": "true",
        "a": '[1, "b"]',
        "s": "t",
    }


def test_pipeline_run_records_config_tags_and_status(
    experiment: str, client: MlflowClient, tmp_path: Path
) -> None:
    with open_pipeline(experiment) as tracked:
        assert client.get_run(tracked.run_id).info.status == "RUNNING"
    run = client.get_run(tracked.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "demo-1"
    assert run.data.params["train.steps"] == str(CONFIG.train.steps)
    assert run.data.params["train.tokens"] == "unset"
    assert run.data.params.keys() == flatten(CONFIG.model_dump(mode="json")).keys()
    assert run.data.tags["data.preset"] == "demo"
    assert run.data.tags["llm.flow"] == "pretrain"
    assert run.data.tags["llm.outcome"] == "complete"
    path = client.download_artifacts(tracked.run_id, "config.json", str(tmp_path))
    assert PretrainConfig.model_validate_json(Path(path).read_text()) == CONFIG
    database = Path(local_mlflow_uri().removeprefix("sqlite:///"))
    home = (database.parent / "artifacts" / experiment).as_uri()
    assert run.info.artifact_uri.startswith(home.replace("[", "%5B"))
    assert tracked.url is None


def test_pipeline_run_with_a_long_setting_cuts_it(
    experiment: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # nobody else cuts
    prompts = ("x" * 7000,)
    config = CONFIG.model_copy(
        update={"score": CONFIG.score.model_copy(update={"prompts": prompts})}
    )
    with open_pipeline(experiment, config=config) as tracked:
        pass
    assert len(client.get_run(tracked.run_id).data.params["score.prompts"]) == 6000
    assert tracked.problems == []


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (ValueError("no\nsuch"), "FAILED", "failed: ValueError: no"),
        (KeyboardInterrupt(), "KILLED", "stopped: KeyboardInterrupt: "),
        (TerminationSignal(15), "KILLED", "stopped: TerminationSignal: 15"),
    ],
)
def test_pipeline_run_that_ends_badly_says_how_and_passes_the_error_on(
    experiment: str, client: MlflowClient, error: BaseException, status: str, outcome: str
) -> None:
    run_ids = []

    def run() -> None:
        with open_pipeline(experiment) as tracked:
            run_ids.append(tracked.run_id)
            raise error

    with pytest.raises(type(error)) as caught:
        run()
    assert caught.value is error
    run_id = run_ids[0]
    run = client.get_run(run_id)
    assert run.info.status == status
    assert run.data.tags["llm.outcome"] == outcome


def test_pipeline_run_leaves_no_thread_behind(experiment: str) -> None:
    before = set(threading.enumerate())
    with open_pipeline(experiment):
        names = {thread.name for thread in set(threading.enumerate()) - before}
        assert names == {"SystemMetricsMonitor"}
    assert set(threading.enumerate()) <= before


def unusable(kind: str, directory: Path) -> str:
    if kind == "no server":
        return f"http://127.0.0.1:{free_port()}"
    if kind == "no database":
        path = directory / "mlflow.db"
        path.write_text("this is no database, but a text that is longer than a page header " * 20)
    else:
        (directory / "file").touch()
        path = directory / "file" / "mlflow.db"
    return f"sqlite:///{path}"


@pytest.mark.parametrize("kind", ["no server", "no database", "no directory"])
def test_pipeline_run_without_a_usable_store_goes_on_and_says_so_twice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = unusable(kind, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    small = make_small_pipeline(tmp_path / "store")
    with caplog.at_level(logging.WARNING), open_pipeline("any") as tracked:
        assert tracked.run_id is None
        tracked.record_metrics({"train/loss": 1.0})
        tracked.record_text("text", "name.txt")
        tracked.record_data(small.manifests.values())
        assert tracked.complete_training(small.artifact("train_model"), small.store) is None
        where = training_run(
            small.manifests["train_model"].derivation, parent_run_id=tracked.run_id
        )
        assert where.uri is None
    first, last = (
        record.getMessage() for record in caplog.records if record.name == "tasks.tracking.run"
    )
    assert uri in first
    assert "opening a run" in first
    assert "does not have all of this run" in last


def test_pipeline_run_whose_store_goes_away_finishes_with_warnings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    experiment: str,
) -> None:
    with open_pipeline(experiment):  # so that the database has its tables
        pass
    database = tmp_path / "mlflow.db"
    shutil.copyfile(local_mlflow_uri().removeprefix("sqlite:///"), database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    small = make_small_pipeline(tmp_path / "store")
    with caplog.at_level(logging.WARNING), open_pipeline(experiment) as tracked:
        assert tracked.run_id
        database.write_bytes(b"gone" * 4096)
        derivation = small.manifests["train_model"].derivation
        assert training_run(derivation, parent_run_id=tracked.run_id).run_id is None
        tracked.record_metrics({"train/loss": 1.0})
    ours = [record for record in caplog.records if record.name.startswith("tasks.")]
    messages = [record.getMessage() for record in ours]
    assert "takes no metrics of this training" in messages[0]
    assert any("(metrics: " in message for message in messages)
    assert "the end of the run" in messages[-1]


def test_shown_address_holds_no_password() -> None:
    address = "postgresql://mlflow:secret@db:5432/mlflow"
    assert shown_address(address) == "postgresql://db:5432/mlflow"
    for plain in ("sqlite:////data/a@b/mlflow.db", "http://mlflow:5000"):
        assert shown_address(plain) == plain


def test_check_reachable_tells_a_listening_port_from_a_closed_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"http://127.0.0.1:{server.getsockname()[1]}/mlflow")
    with pytest.raises(ConnectionRefusedError):
        check_reachable(f"http://127.0.0.1:{free_port()}")


def test_training_run_of_an_interrupted_training_is_gone_on_in(
    experiment: str, client: MlflowClient, tmp_path: Path
) -> None:
    derivation = make_small_pipeline(tmp_path).manifests["train_model"].derivation
    places = []

    def crash() -> None:
        with open_pipeline(experiment) as first:
            places.append(training_run(derivation, parent_run_id=first.run_id))
            raise ValueError("crash")

    with pytest.raises(ValueError, match="crash"):
        crash()
    (began,) = places
    assert client.get_run(began.run_id).info.status == "FAILED"
    with open_pipeline(experiment) as second:
        assert training_run(derivation, parent_run_id=second.run_id) == began
        run = client.get_run(began.run_id)
        assert run.info.status == "RUNNING"
        assert run.data.tags["mlflow.parentRunId"] == second.run_id
        assert run.info.run_name == "train_model-demo-base"
        assert run.data.params["train.steps"] == "30"


def test_training_run_of_another_key_is_another_run(experiment: str, tmp_path: Path) -> None:
    one, two = (
        make_small_pipeline(tmp_path / salt, salt=salt).manifests["train_model"].derivation
        for salt in ("a", "b")
    )
    with open_pipeline(experiment) as tracked:
        assert (
            training_run(one, parent_run_id=tracked.run_id).run_id
            != training_run(two, parent_run_id=tracked.run_id).run_id
        )


def test_training_run_without_a_parent_reports_nowhere(tmp_path: Path) -> None:
    derivation = make_small_pipeline(tmp_path).manifests["train_model"].derivation
    assert training_run(derivation, parent_run_id=None).uri is None


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> SmallPipeline:
    return make_small_pipeline(tmp_path / "data", salt=request.node.name)


def complete(small: SmallPipeline, experiment: str) -> tuple[TrackedPipeline, str]:
    """Run a pipeline that finds its training made."""
    with open_pipeline(experiment) as tracked:
        run_id = tracked.complete_training(small.artifact("train_model"), small.store)
        assert run_id
    return tracked, run_id


def test_complete_training_in_a_store_without_the_run_replays_all_of_it(
    small: SmallPipeline, experiment: str, client: MlflowClient
) -> None:
    tracked, run_id = complete(small, experiment)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1_795_000_000_250, 1_795_000_009_250)
    assert run.data.tags["mlflow.parentRunId"] == tracked.run_id
    assert run.data.tags["training.device"] == "cpu"
    history = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [
        (1, 5.9),
        (10, 5.0),
        (20, 4.0),
        (30, 3.0),
    ]
    parent = client.get_run(tracked.run_id)
    assert parent.data.tags["llm.training_run_id"] == run_id
    assert parent.data.metrics == {
        "train/loss": 3.0,
        "train/tokens": 30_000.0,
        "validation/loss": 3.5,
        "validation/bits_per_byte": 1.0,
        "perf/tokens_per_second": 500.0,
    }
    inputs = {
        (item.dataset.name, item.tags[0].value): item.dataset.digest
        for item in run.inputs.dataset_inputs
    }
    shards = small.manifests["shards-training"]
    assert inputs[("write_shards/training", "training")] == shards.content_digest[:32]
    assert ("write_shards/validation", "validation") in inputs


def test_data_of_a_chat_training_are_the_text_of_its_base_as_well(small: SmallPipeline) -> None:
    shards = (small.artifact("shards-training"),)
    chats = make(small.store, WriteChatShardsOutputs, "training-mine").artifact
    training = make(
        small.store, TrainModelOutputs, "chat", inputs={"training": (chats,), "pretraining": shards}
    )
    assert [(item.name, item.context) for item in training_data(training)] == [
        ("write_chat_shards/training-mine", "training"),
        ("write_shards/training", "training"),
    ]


def test_complete_training_makes_each_checkpoint_a_model_with_its_metrics(
    small: SmallPipeline, experiment: str, client: MlflowClient
) -> None:
    _, run_id = complete(small, experiment)
    run = client.get_run(run_id)
    assert run.outputs
    models = {
        item.step: client.get_logged_model(item.model_id) for item in run.outputs.model_outputs
    }
    assert sorted(models) == [20, 30]
    trained = small.manifests["train_model"]
    entry = next(
        item for item in trained.files if item.path.startswith("checkpoints/step-00000020")
    )
    assert models[20].tags["sha256"] == entry.sha256
    directory = small.store.root / models[20].tags["uri"]
    assert (directory / "model.safetensors").read_text().startswith("weights at 20")
    assert models[20].source_run_id == run_id
    assert models[20].status == "READY"
    metrics = {point.key: point.value for point in models[20].metrics or ()}
    assert metrics["validation/bits_per_byte"] == pytest.approx(4 / 3)
    assert metrics["train/loss"] == 4.0
    assert {point.step for point in models[30].metrics or ()} == {30}


def test_complete_training_again_adds_nothing(
    small: SmallPipeline, experiment: str, client: MlflowClient
) -> None:
    _, first = complete(small, experiment)
    before = contents(client, experiment)
    assert len(before["models"]) == 2
    tracked, second = complete(small, experiment)
    assert second == first
    assert contents(client, experiment) == before
    assert client.get_run(tracked.run_id).data.tags["llm.training_run_id"] == first


def test_complete_training_whose_process_reported_sends_only_what_is_missing(
    small: SmallPipeline, experiment: str, client: MlflowClient, tmp_path: Path
) -> None:
    trained = small.manifests["train_model"]
    reported = tmp_path / "reported.jsonl"
    reported.write_text(event_lines(until=20))
    with open_pipeline(experiment) as tracked:
        where = training_run(trained.derivation, parent_run_id=tracked.run_id)
        assert where.uri
        assert where.run_id
        assert replay(reported, uri=where.uri, run_id=where.run_id) == 14
        assert tracked.complete_training(trained.artifact, small.store) == where.run_id
    points = contents(client, experiment)["training points"]
    own = [point for point in points if point[0] == where.run_id]
    assert len(own) == len({point[1:3] for point in own}) == 4 * 4 + 2 * 2


def test_complete_training_that_was_cut_off_is_taken_up(
    small: SmallPipeline, experiment: str, client: MlflowClient
) -> None:
    _, run_id = complete(small, experiment)
    before = contents(client, experiment)
    client.delete_tag(run_id, "llm.content_digest")  # as if it had stopped just before the end
    client.update_run(run_id, status="RUNNING")
    assert complete(small, experiment)[1] == run_id
    assert contents(client, experiment) == before
    assert client.get_run(run_id).info.status == "FINISHED"


def test_complete_training_of_other_bytes_under_one_key_is_another_run(
    small: SmallPipeline, experiment: str
) -> None:
    _, first = complete(small, experiment)
    trained = small.artifact("train_model")
    path = small.store.path(trained) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"content_digest": "0" * 64}))
    assert complete(small, experiment)[1] != first


def test_record_data_logs_digests_of_source_training_and_validation(
    small: SmallPipeline, experiment: str, client: MlflowClient
) -> None:
    with open_pipeline(experiment) as tracked:
        tracked.record_data(small.manifests.values())
        tracked.record_data(reversed(small.manifests.values()))
    run = client.get_run(tracked.run_id)
    found = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert len(run.inputs.dataset_inputs) == 3
    assert found["source"].digest == run.data.tags["data.manifest_digest"][:32]
    assert json.loads(found["source"].profile) == {"num_files": 2, "num_documents": 100}
    validation = small.manifests["select_validation"].content_digest
    assert run.data.tags["data.validation_digest"] == validation
    assert found["validation"].digest == validation[:32]
    assert run.data.tags["tokenizer.fingerprint"] == "f" * 64


def test_final_metrics_are_the_last_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / EVENTS_NAME
    path.write_text(event_lines(until=10))
    assert final_metrics(read_events(path)) == {
        "train/loss": 5.0,
        "train/tokens": 10_000.0,
        "perf/tokens_per_second": 500.0,
    }


def test_environment_tags_are_those_of_the_newest_start() -> None:
    start = {"time": 1.0, "kind": "start", "step": 0, "device": "cpu", "a/b": 1}
    resume = {"time": 2.0, "kind": "resume", "step": 5, "device": "gpu"}
    assert environment_tags([start]) == {"training.device": "cpu"}
    assert environment_tags([start, resume]) == {"training.device": "gpu"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one MLflow server, on a copy of a database whose tables are made."""
    RunStore.open(local_mlflow_uri(), experiment="tables")
    directory = tmp_path_factory.mktemp("server")
    shutil.copyfile(local_mlflow_uri().removeprefix("sqlite:///"), directory / "mlflow.db")
    with mlflow_server(directory) as uri:
        yield uri


@pytest.mark.slow
def test_pipeline_run_on_a_server_is_complete_and_idempotent(
    small: SmallPipeline, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(tracking_uri=server)
    tracked, run_id = complete(small, "on-a-server")
    before = contents(client, "on-a-server")
    assert len(before["models"]) == 2
    assert len(before["training points"]) == 4 * 4 + 2 * 2
    assert complete(small, "on-a-server")[1] == run_id
    assert contents(client, "on-a-server") == before
    experiment_id = client.get_run(run_id).info.experiment_id
    assert tracked.url == f"{server}/#/experiments/{experiment_id}/runs/{tracked.run_id}"
    assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    path = client.download_artifacts(tracked.run_id, "config.json", str(tmp_path))
    assert PretrainConfig.model_validate_json(Path(path).read_text()) == CONFIG


@pytest.mark.slow
def test_register_model_on_a_server_can_be_downloaded_by_its_alias(
    small: SmallPipeline, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(tracking_uri=server)

    def register() -> Any:
        with open_pipeline("registry") as tracked:
            return register_model.fn(
                tracked,
                small.artifact("export_model"),
                scores=(),
                registry=CONFIG.registry,
                store=small.store,
            )

    assert register().version == 1
    assert register().data.version == 1
    assert [item.version for item in client.search_model_versions()] == ["1"]
    version = client.get_model_version_by_alias(CONFIG.registry.name, CONFIG.registry.alias)
    assert version.source.startswith("mlflow-artifacts:/")
    script = (
        "import mlflow, pathlib, sys\n"
        "folder = pathlib.Path(mlflow.artifacts.download_artifacts(sys.argv[1]))\n"
        "print((folder / 'model.safetensors').read_text())\n"
    )
    name = f"models:/{CONFIG.registry.name}@{CONFIG.registry.alias}"
    command = [sys.executable, "-c", script, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("weights test_register_model")


@pytest.mark.slow
def test_run_store_opened_by_two_processes_at_once_is_made_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    script = (
        "import sys\n"
        "from tasks.tracking.mlflow_store import RunStore\n"
        "print(RunStore.open(sys.argv[1], experiment='x').experiment_id)\n"
    )
    command = [sys.executable, "-c", script, uri]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project_root())
        for _ in range(2)
    ]
    answers = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert answers[0] == answers[1] == "1\n"
