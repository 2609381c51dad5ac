"""Reports: pictures and texts, and what Prefect and MLflow get of them."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact as PrefectArtifact
from prefect.runtime import flow_run

from flows.presets import demo
from model.errors import ArtifactError
from model.tracker import EVENTS_NAME, read_events
from tasks.reports import (
    Sample,
    loss_picture,
    mlflow_markdown,
    read_samples,
    report_corpus,
    report_mlflow_run,
    report_samples,
    report_training,
    samples_markdown,
    samples_text,
)
from tasks.tracking import TrackedPipeline, pipeline_run
from tests.servers import local_mlflow_uri
from tests.small_pipeline import SmallPipeline, make_small_pipeline

pytestmark = [
    # MLflow's own models use what its newest SQLAlchemy deprecates.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture
def experiment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    return request.node.name


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> SmallPipeline:
    return make_small_pipeline(tmp_path, salt=request.node.name)


def open_pipeline(experiment: str) -> Any:
    return pipeline_run(experiment=experiment, name="demo", config=demo(), flow="pretrain")


def report_all(tracked: TrackedPipeline, small: SmallPipeline) -> None:
    report_corpus(tracked, small.manifests.values())
    report_training(tracked, small.artifact("train_model"), small.store)
    report_samples(tracked, read_samples(small.store.path(small.artifact("score_model"))))
    report_mlflow_run(tracked)


def shown(key: str) -> PrefectArtifact:
    """Return the newest Prefect artifact of a key."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=wanted, limit=1)
    return found


def test_reports_in_a_flow_are_artifacts_of_its_run(
    small: SmallPipeline, experiment: str, prefect_api: None
) -> None:
    seen: dict[str, Any] = {}

    @flow(name="small-reports")
    def reporting() -> None:
        with open_pipeline(experiment) as tracked:
            report_all(tracked, small)
        seen.update(run_id=flow_run.id, name=flow_run.name, tracked=tracked)

    reporting()
    artifacts = {key: shown(key) for key in ("corpus-funnel", "loss", "samples", "mlflow-run")}
    assert {str(item.flow_run_id) for item in artifacts.values()} == {seen["run_id"]}
    assert artifacts["corpus-funnel"].type == "table"
    assert '"documents": 67' in str(artifacts["corpus-funnel"].data)
    address = str(artifacts["loss"].data)
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert png.startswith(b"\x89PNG")
    assert artifacts["samples"].data == "**Tom** ran\\.\n"
    assert seen["tracked"].run_id in str(artifacts["mlflow-run"].data)
    run = MlflowClient(tracking_uri=local_mlflow_uri()).get_run(seen["tracked"].run_id)
    assert run.data.tags["prefect.flow_run_id"] == seen["run_id"]
    assert run.data.tags["prefect.flow_run_name"] == seen["name"]


def test_reports_outside_a_flow_reach_mlflow_only(
    small: SmallPipeline, experiment: str, tmp_path: Path
) -> None:
    with open_pipeline(experiment) as tracked:
        report_all(tracked, small)
    assert tracked.problems == []
    client = MlflowClient(tracking_uri=local_mlflow_uri())
    names = {item.path for item in client.list_artifacts(tracked.run_id)}
    assert names == {"config.json", "corpus_funnel.json", "loss.png", "samples.txt"}
    funnel = client.load_table(_experiment_id(client, experiment), "corpus_funnel.json")
    assert funnel["documents"].tolist()[:2] == [100, -9]
    path = client.download_artifacts(tracked.run_id, "samples.txt", str(tmp_path))
    assert Path(path).read_text() == "[Tom] ran.\n"


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    assert found
    return found.experiment_id


def test_report_corpus_whose_counts_do_not_add_up_fails(
    small: SmallPipeline, experiment: str
) -> None:
    broken = small.manifests["filter"].model_copy(update={"counts": {"num_in": 5, "num_kept": 6}})
    manifests = [*small.manifests.values(), broken]
    with (
        open_pipeline(experiment) as tracked,
        pytest.raises(ArtifactError, match="do not add up"),
    ):
        report_corpus(tracked, manifests)


def test_loss_picture_is_a_png_with_both_curves(small: SmallPipeline) -> None:
    events = read_events(small.store.path(small.artifact("train_model")) / EVENTS_NAME)
    picture = loss_picture(events)
    assert struct.unpack(">II", picture[16:24]) == (700, 360)
    pixels = imread(io.BytesIO(picture))[..., :3]
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):  # matplotlib's first two
        distance = abs(pixels * 255 - colour).sum(axis=-1)
        assert (distance < 3).sum() > 100
    assert loss_picture(events) == picture


def test_loss_picture_of_a_long_training_stays_small() -> None:
    events = [
        {"kind": "train", "step": step, "train/loss": 5 + (step % 7) / 7} for step in range(20_000)
    ]
    assert len(loss_picture(events)) < 100_000


def test_samples_markdown_shows_markup_as_it_is() -> None:
    sample = Sample(prompt="# Tom", text=" *ran*\n<b>")
    assert samples_markdown([sample]) == "**\\# Tom** \\*ran\\*<br>\\<b\\>\n"
    assert samples_text([sample, sample]) == "[# Tom] *ran*\n<b>\n\n[# Tom] *ran*\n<b>\n"


def test_mlflow_markdown_tells_how_to_look_at_a_local_store() -> None:
    text = mlflow_markdown("sqlite:////data/mlflow.db", "abc")
    assert "`abc`" in text
    assert "mlflow server --workers 1 --backend-store-uri sqlite:////data/mlflow.db" in text
