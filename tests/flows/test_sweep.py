"""A whole small ladder as its user runs it: one MLflow run with nested trainings, and a curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from model.config.outputs import TrainModelOutputs
from model.eval.scaling_laws import ScalingFit
from tasks.stages.fit_scaling import FitScalingOutputs
from tests.support.flow_process import Home, run_flow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]

NAMES = ["1m-2.05k", "1m-8.19k", "1m-20.5k"]
SETTINGS = {
    "sweep__sizes": json.dumps(["1m", "1m", "1m"]),
    "sweep__tokens": json.dumps([2_048, 8_192, 20_480]),
    "run__dollars_per_hour": 3.6,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("sweep"))
    done = run_flow(home, "sweep", **SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    (home.directory / "said").write_text(done.stdout + done.stderr)
    return home


def runs_of(home: Home) -> list[Run]:
    client = MlflowClient(home.mlflow_uri)
    found = client.get_experiment_by_name("llm-from-scratch")
    assert found
    return list(client.search_runs([found.experiment_id]))


def newest_ladder(home: Home) -> tuple[Run, list[Run]]:
    """Return the newest run of a sweep and the trainings nested in it."""
    runs = sorted(runs_of(home), key=lambda run: run.info.start_time, reverse=True)
    parent = next(run for run in runs if run.data.tags.get("llm.flow") == "sweep")
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, nested


def read_fit(home: Home) -> ScalingFit:
    (manifest,) = home.store.manifests("fit_scaling")
    path = FitScalingOutputs.of(home.store, manifest.artifact).fit
    return ScalingFit.model_validate_json(path.read_bytes())


def test_sweep_fits_its_trainings_and_predicts_the_next(finished: Home) -> None:
    fit = read_fit(finished)
    assert [point.name for point in fit.points] == NAMES
    scores = {
        item.artifact.name: TrainModelOutputs.facts_of(item).validation_bits_per_byte
        for item in finished.store.manifests("train_model")
    }
    assert {point.name: point.bits_per_byte for point in fit.points} == scores
    assert fit.curve
    assert fit.next_rung
    assert fit.next_rung.size == "10m"
    said = (finished.directory / "said").read_text()
    assert "Next: 10m on" in said
    assert said.count("predicted against actual") == 3
    assert "all 3 trainings, one after the other" in said
    assert "cost: predicted $" in said


def test_sweep_nests_all_trainings_in_one_run_with_the_plot(finished: Home) -> None:
    parent, nested = newest_ladder(finished)
    assert sorted(run.info.run_name for run in nested) == sorted(
        f"train_model-{name}" for name in NAMES
    )
    for run in nested:
        assert run.data.metrics.keys() >= {
            "train/flops",
            "validation/bits_per_byte",
            "predicted/tokens_per_second",
            "cost/dollars",
        }
    assert {run.data.params["model.size"] for run in nested} == {"1m"}
    assert len({run.data.params["train.steps"] for run in nested}) == 3
    assert parent.data.metrics["fit/exponent"] > 0
    assert "| 1m-20.5k |" in parent.data.tags["mlflow.note.content"]
    client = MlflowClient(finished.mlflow_uri)
    files = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert files >= {"ladder.png", "ladder.json", "fit.json", "config.json"}


def test_longer_ladder_trains_one_more_and_shows_all(finished: Home) -> None:
    built = {item.artifact.key: item.origin.created_at for item in finished.store.manifests()}
    more = SETTINGS | {
        "sweep__sizes": json.dumps(["1m"] * 4),
        "sweep__tokens": json.dumps([2_048, 8_192, 20_480, 40_960]),
    }
    done = run_flow(finished, "sweep", **more)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "fitted, ladder: L = A" in said  # the plan predicts by the shorter ladder
    now = {item.artifact.key: item.origin.created_at for item in finished.store.manifests()}
    assert built.items() < now.items()
    assert len(now) == len(built) + 2  # one training and the curve
    _, nested = newest_ladder(finished)
    assert len(nested) == 4


def test_pretrain_is_predicted_by_the_ladder_on_its_validation_rows(
    finished: Home, tmp_path: Path
) -> None:
    done = run_flow(finished, "pretrain", "--dry-run", train__steps=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predicted: " in done.stdout
    assert "fitted, ladder" in done.stdout
