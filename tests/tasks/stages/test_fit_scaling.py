"""The curve of a ladder as a stage, and what Prefect and MLflow get of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from mlflow import MlflowClient

from flows.settings.presets import demo
from model.config.network import ModelConfig
from model.config.outputs import EVENTS_NAME, TrainModelCounts, TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.store import ArtifactStore
from model.eval.scaling_laws import ScalingFit
from tasks.engine.stage import Call, ResourceShare, run_body
from tasks.planning.ladder import short_count
from tasks.planning.plan import Plan
from tasks.reporting.ladder import fit_metrics, ladder_markdown, report_ladder
from tasks.stages.fit_scaling import FitScaling, FitScalingCounts, FitScalingOutputs, fit_scaling
from tasks.tracking.run import pipeline_run
from tests.support.servers import local_mlflow_uri
from tests.support.small_pipeline import event_lines, filled, make, train_facts

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

VOCAB_SIZE = 1_280
NO_PLAN = Plan(steps=(), disk_bytes=0, data_memory_bytes=0, trainings=())


def make_training(store: ArtifactStore, name: str, *, tokens: int, bits: float) -> Manifest:
    return make(
        store,
        TrainModelOutputs,
        name,
        files={"model/model.safetensors": name, EVENTS_NAME: event_lines()},
        counts=filled(TrainModelCounts, tokens=tokens, steps=30),
        facts=train_facts(validation_bits_per_byte=bits, tokens_per_second=100.0),
        config={"model": ModelConfig(size="1m", context_tokens=256).semantic()},
        logs=TrainModelOutputs.LOGS,
    )


def fit_of(store: ArtifactStore, trained: list[Artifact]) -> tuple[Artifact, ScalingFit]:
    """Run the stage and return what it made."""
    config = FitScaling(vocab_size=VOCAB_SIZE, next_size="10m", next_tokens=400_000)
    derivation = fit_scaling.derive("ladder", config=config, inputs={"trained": trained})
    share = ResourceShare(threads=1, memory_bytes=1)
    run_body(Call(fit_scaling, derivation, config, share, store.root), store)
    return derivation.artifact, FitScalingOutputs.of(store, derivation.artifact).read_fit()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def ladder(store: ArtifactStore) -> list[Artifact]:
    """Return three trainings whose score halves with each ten times more tokens."""
    scores = {"1m-100k": (100_000, 2.0), "1m-1M": (1_000_000, 1.0), "1m-10M": (10_000_000, 0.5)}
    return [
        make_training(store, name, tokens=tokens, bits=bits).artifact
        for name, (tokens, bits) in scores.items()
    ]


def test_stage_fits_the_scores_of_its_trainings(
    store: ArtifactStore, ladder: list[Artifact]
) -> None:
    artifact, fit = fit_of(store, ladder)
    network = ModelConfig(size="1m", context_tokens=256).architecture(VOCAB_SIZE)
    assert [point.flops for point in fit.points] == [
        tokens * network.flops_per_token() for tokens in (100_000, 1_000_000, 10_000_000)
    ]
    assert fit.curve
    assert fit.curve.at(fit.points[0].flops * 1_000) == pytest.approx(0.25)
    manifest = store.verify(artifact)
    outputs = FitScalingOutputs.of(store, artifact)
    roles = {entry.path: entry.role for entry in manifest.files}
    assert roles == {outputs.fit.name: "content", outputs.plot.name: "log"}
    assert outputs.counts == FitScalingCounts(num_in=3, num_on_frontier=3)
    pixels = imread(io.BytesIO(outputs.plot.read_bytes()))
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert pixels.std() > 0.05  # something is drawn


def test_stage_without_the_logs_of_its_trainings_fits_the_same(
    store: ArtifactStore, ladder: list[Artifact]
) -> None:
    _, with_logs = fit_of(store, ladder)
    for item in ladder:
        (store.path(item) / "events.jsonl").unlink()
    (path,) = store.root.glob("fit_scaling/ladder-*/manifest.json")
    path.unlink()
    assert fit_of(store, ladder)[1] == with_logs


def test_markdown_names_curve_residual_and_the_next_training(
    store: ArtifactStore, ladder: list[Artifact]
) -> None:
    _, fit = fit_of(store, ladder)
    text = ladder_markdown(fit)
    network = ModelConfig(size="1m", context_tokens=256).architecture(VOCAB_SIZE)
    assert f"| 1m-1M | {short_count(network.num_params())} | 1M | " in text
    assert "degrees of freedom: 1" in text
    assert "Next: 10m on 400k tokens" in text
    assert fit_metrics(fit)["fit/floor"] == 0.0
    worse = [*ladder[:1], make_training(store, "1m-3M", tokens=3_000_000, bits=3.0).artifact]
    _, none = fit_of(store, worse)
    assert "never scored lower" in ladder_markdown(none)
    assert fit_metrics(none) == {}


def test_report_nests_every_training_in_the_newest_ladder(
    store: ArtifactStore,
    ladder: list[Artifact],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    client = MlflowClient(local_mlflow_uri())
    fitted, fit = fit_of(store, ladder)
    for attempt in ("first", "second"):
        with pipeline_run(
            experiment=request.node.name, name=attempt, config=demo(), flow="sweep"
        ) as tracked:
            report_ladder(tracked, ladder, fitted, plan=NO_PLAN, store=store)
        assert tracked.problems == []
        assert tracked.run_id
        experiment = client.get_run(tracked.run_id).info.experiment_id
        nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{tracked.run_id}'")
        assert sorted(run.info.run_name or "" for run in nested) == sorted(
            f"train_model-{item.name}" for item in ladder
        )
        flops = {run.info.run_name: run.data.metrics["train/flops"] for run in nested}
        assert flops == {f"train_model-{point.name}": point.flops for point in fit.points}
        parent = client.get_run(tracked.run_id)
        assert "Next: 10m" in parent.data.tags["mlflow.note.content"]
        files = {item.path for item in client.list_artifacts(tracked.run_id)}
        assert files >= {"ladder.png", "fit.json", "ladder.json"}
    assert len(client.search_runs([experiment], "tags.`llm.artifact_key` != ''")) == 3
    table = client.download_artifacts(tracked.run_id, "ladder.json", str(store.root))
    assert len(json.loads(Path(table).read_text())["data"]) == 3
