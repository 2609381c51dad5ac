"""Events and their copy in MLflow."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from model.config.train import TrackingConfig
from model.core.errors import ArtifactError
from model.train.events import MlflowSink, Tracker, metric_points, read_events, replay

# MLflow's own models use what its newest SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

NO_TRACKING = TrackingConfig()


def write_events(path: Path, *events: dict[str, Any]) -> Path:
    lines = [json.dumps({"time": 1.0, **event}) + "\n" for event in events]
    path.write_text("".join(lines))
    return path


def train(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "train/loss": loss}


def test_read_events_after_a_resume_gives_each_step_once(tmp_path: Path):
    path = write_events(
        tmp_path / "events.jsonl",
        {"kind": "start", "step": 0},
        train(1, 5.0),
        train(2, 4.0),
        {"kind": "checkpoint", "step": 2},
        train(3, 3.0),
        train(4, 9.0),
        {"kind": "resume", "step": 2},
        train(3, 3.0),
        train(5, 2.0),
    )
    held = [(event["kind"], event["step"], event.get("train/loss")) for event in read_events(path)]
    assert held == [
        ("start", 0, None),
        ("train", 1, 5.0),
        ("train", 2, 4.0),
        ("checkpoint", 2, None),
        ("resume", 2, None),
        ("train", 3, 3.0),
        ("train", 5, 2.0),
    ]


def test_read_events_after_a_second_start_forgets_the_first(tmp_path: Path):
    start = {"kind": "start", "step": 0}
    path = write_events(tmp_path / "events.jsonl", start, train(1, 5.0), start, train(2, 4.0))
    assert [event["step"] for event in read_events(path)] == [0, 2]


def test_read_events_of_one_kind_and_step_keeps_the_later(tmp_path: Path):
    validations = [
        {"kind": "validation", "step": 2, "validation/loss": loss} for loss in (4.0, 3.5)
    ]
    path = write_events(tmp_path / "events.jsonl", *validations)
    assert [event["validation/loss"] for event in read_events(path)] == [3.5]


def test_read_events_leaves_out_a_line_still_being_written(tmp_path: Path):
    path = write_events(tmp_path / "events.jsonl", train(1, 5.0))
    with path.open("a") as handle:
        handle.write('{"time": 1.0, "kind": "tr')
    assert [event["step"] for event in read_events(path)] == [1]


@pytest.mark.parametrize("line", ["{nonsense", "[]", '{"kind": "train"}', '{"kind": 1, "step": 2}'])
def test_read_events_of_a_broken_line_names_it(tmp_path: Path, line: str):
    path = write_events(tmp_path / "events.jsonl", train(1, 5.0))
    with path.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(ArtifactError, match=r"line of the event log is broken") as error:
        read_events(path)
    assert error.value.where == f"{path}:2"


def test_tracker_writes_what_read_events_returns(tmp_path: Path):
    tracker = Tracker(tmp_path / "events.jsonl", tracking=NO_TRACKING)
    tracker.record("start", step=0, device="cpu")
    tracker.record("train", step=1, **{"train/loss": 5.25, "train/tokens": 64})
    tracker.close()
    start, event = read_events(tmp_path / "events.jsonl")
    assert start["device"] == "cpu"
    assert {point.key: point.value for point in metric_points(event)} == {
        "train/loss": 5.25,
        "train/tokens": 64.0,
    }


def test_tracker_cuts_a_line_a_killed_process_left_unfinished(tmp_path: Path):
    path = write_events(tmp_path / "events.jsonl", train(1, 5.0))
    with path.open("a") as handle:
        handle.write('{"time": 1.0, "kind": "tr')
    Tracker(path, tracking=NO_TRACKING).record("train", step=2, **{"train/loss": 4.0})
    assert [event["step"] for event in read_events(path)] == [1, 2]


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def run_id(mlflow_uri: str, tmp_path: Path) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment = client.create_experiment(tmp_path.name, artifact_location=tmp_path.as_uri())
    return client.create_run(experiment).info.run_id


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


def test_tracker_with_mlflow_sends_each_step_once_over_kill_and_resume(
    tmp_path: Path, mlflow_uri: str, run_id: str
):
    path = tmp_path / "events.jsonl"
    tracking = TrackingConfig(uri=mlflow_uri, run_id=run_id)
    first = Tracker(path, tracking=tracking)
    for step in (1, 2, 3):
        first.record("train", step=step, **{"train/loss": 6.0 - step})
    first.close()
    resumed = Tracker(path, tracking=tracking)
    resumed.record("resume", step=1, num_steps=4)
    for step in (2, 3, 4):
        resumed.record("train", step=step, **{"train/loss": 6.0 - step})
    resumed.record("validation", step=4, **{"validation/loss": 2.5})
    resumed.close()
    assert history(mlflow_uri, run_id, "train/loss") == [(1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0)]
    assert history(mlflow_uri, run_id, "validation/loss") == [(4, 2.5)]


def test_replay_fills_gaps_once(tmp_path: Path, mlflow_uri: str, run_id: str):
    path = tmp_path / "events.jsonl"
    events = [train(step, 1.0 / step) for step in range(1, 1501)]  # more than one call's worth
    write_events(path, *events)
    sink = MlflowSink(mlflow_uri, run_id=run_id)
    sink.add(metric_points(read_events(path)[699]))
    sink.close()
    assert replay(path, uri=mlflow_uri, run_id=run_id) == 1499
    assert replay(path, uri=mlflow_uri, run_id=run_id) == 0
    expected = [(step, 1.0 / step) for step in range(1, 1501)]
    assert history(mlflow_uri, run_id, "train/loss") == expected


def test_tracker_with_a_dead_mlflow_warns_once_and_keeps_the_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("model.train.events.FLUSH_SECONDS", 0.01)
    dead = TrackingConfig(uri="http://127.0.0.1:9", run_id="0" * 32)
    with caplog.at_level(logging.WARNING, logger="model.train.events"):
        tracker = Tracker(tmp_path / "events.jsonl", tracking=dead)
        tracker.record("train", step=1, **{"train/loss": 5.0})
        tracker.record("train", step=2, **{"train/loss": 4.0})
        tracker.close()
    assert [event["step"] for event in read_events(tmp_path / "events.jsonl")] == [1, 2]
    warnings = [item for item in caplog.messages if "does not accept metrics" in item]
    assert len(warnings) == 1
    assert "training continues" in warnings[0]
