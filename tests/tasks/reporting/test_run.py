"""Reports: plots and texts, and what Prefect and MLflow get of them."""

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
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import flow_run

from flows.settings.presets import demo
from model.config.outputs import ScoreModelFacts, ScoreModelOutputs, TrainModelOutputs
from model.core.artifact import Artifact
from model.core.errors import ArtifactError
from model.data.prompts import Generation, write_generations
from model.train.events import read_events
from tasks.corpus.report.data import (
    FunnelLine,
    Histogram,
    Origins,
    Report,
    Sample,
    Summary,
    Tokens,
    Vocabulary,
)
from tasks.reporting.funnel import funnel
from tasks.reporting.plots import loss_plot
from tasks.reporting.run import (
    SampleText,
    corpus_markdown,
    mlflow_markdown,
    read_samples,
    report_checkpoints,
    report_data,
    report_mlflow_run,
    report_page,
    report_published,
    report_samples,
    report_scores,
    report_training,
    samples_markdown,
    samples_text,
)
from tasks.stages.judge_texts import JudgeTextsFacts, JudgeTextsOutputs
from tasks.stages.publish_corpus import PublishCorpusOutputs
from tasks.stages.report_corpus import ReportCorpusOutputs, read_corpus_report
from tasks.tracking.run import TrackedPipeline, pipeline_run
from tests.support.servers import local_mlflow_uri
from tests.support.small_pipeline import SmallPipeline, filled, make, make_small_pipeline

KEYS = ("corpus-funnel", "corpus-report-page", "corpus-report", "loss", "samples", "mlflow-run")

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


def make_report(small: SmallPipeline) -> Artifact:
    """Make a report artifact with the funnel of the small pipeline and nothing else."""
    nothing = Summary(documents=0, unknown=0, total=None, mean=None, percentiles={})
    histogram = Histogram(
        quantity="x", edges=(0, 1), before=(0,), after=(0,),
        summary_before=nothing, summary_after=nothing,
    )  # fmt: skip
    origins = Origins(shares=(), distinct_before=4, distinct_after=3)
    report = Report(
        source={"kind": "demo"},
        files=2,
        funnel=tuple(FunnelLine(**row) for row in funnel(small.manifests.values()).as_rows()),
        losses=(),
        score=histogram,
        chars=histogram,
        words=histogram,
        sample=Sample(documents_before=0, documents_after=0, is_everything=True),
        domains=origins,
        dumps=origins,
        cluster_sizes=(),
        similarities=(),
        pairs=(),
        vocabulary=Vocabulary(documents=0, words=(), distinct=()),
        tokens=Tokens(
            source_before=None, source_after=None, training=6_700, validation=500,
            training_documents=67, vocabulary=300, bytes_per_token=None,
        ),
        disk=(),
        edits=None,
        personal_data=None,
        contamination=None,
    )  # fmt: skip
    files = {"report.html": "<p>the page</p>", "report.json": report.model_dump_json()}
    return make(small.store, ReportCorpusOutputs, "corpus", files=files).artifact


def report_all(tracked: TrackedPipeline, small: SmallPipeline) -> None:
    report_data(tracked, small.manifests.values())
    report_page(tracked, make_report(small), small.store)
    report_training(tracked, small.artifact("train_model"), small.store)
    report_samples(
        tracked, read_samples(ScoreModelOutputs.of(small.store, small.artifact("score_model")))
    )
    report_mlflow_run(tracked)


def shown(key: str) -> PrefectArtifact:
    """Return the newest Prefect artifact of a key."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        newest = ArtifactSort.CREATED_DESC
        (found,) = client.read_artifacts(artifact_filter=wanted, sort=newest, limit=1)
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
    artifacts = {key: shown(key) for key in KEYS}
    assert {str(item.flow_run_id) for item in artifacts.values()} == {seen["run_id"]}
    assert artifacts["corpus-funnel"].type == "table"
    assert "/report_corpus/corpus-" in str(artifacts["corpus-report-page"].data)
    assert "| filter\\_documents | too\\_short | -9 | -9.0 % |" in str(
        artifacts["corpus-report"].data
    )
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
    assert names == {"config.json", "corpus_funnel.json", "loss.png", "report.html", "samples.txt"}
    funnel = client.load_table(_experiment_id(client, experiment), "corpus_funnel.json")
    assert funnel["documents"].tolist()[:2] == [100, -9]
    path = client.download_artifacts(tracked.run_id, "samples.txt", str(tmp_path))
    assert Path(path).read_text() == "[Tom] ran.\n"
    path = client.download_artifacts(tracked.run_id, "report.html", str(tmp_path))
    assert Path(path).read_text() == "<p>the page</p>"


def test_report_scores_logs_every_measure_the_texts_and_checkpoints_at_their_step(
    small: SmallPipeline, experiment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = small.artifact("score_model")
    text = Generation(
        kind="opening", style="text", prompt="Tom", text=" ran.", expected=None,
        num_tokens=2, finish="stop",
    )  # fmt: skip
    write_generations(small.store.path(scores) / "generations.parquet", [text])
    judged = make(
        small.store, JudgeTextsOutputs, "base",
        facts=filled(JudgeTextsFacts, distinct_1=0.5, absent={'parser_accepted': 'none is here'}),
    )  # fmt: skip
    early = make(
        small.store,
        ScoreModelOutputs,
        "early",
        facts=filled(ScoreModelFacts, bits_per_byte=2.0, validation_loss=6.5, checkpoint_step=20),
    )
    with open_pipeline(experiment) as tracked:
        report_scores(tracked, [scores, judged.artifact], small.store)
        report_checkpoints(tracked, [early.artifact], small.store)
    assert tracked.problems == []
    assert "not measured: parser_accepted: none is here" in caplog.text
    client = MlflowClient(tracking_uri=local_mlflow_uri())
    metrics = client.get_run(tracked.run_id).data.metrics
    wanted = {name: value for name, value in metrics.items() if not name.startswith("system/")}
    assert wanted == {
        "score/bits_per_byte": 1.0625,
        "score/validation_loss": 3.5,
        "score/distinct_1": 0.5,
        "checkpoint/bits_per_byte": 2.0,
        "checkpoint/validation_loss": 6.5,
    }
    (point,) = client.get_metric_history(tracked.run_id, "checkpoint/bits_per_byte")
    assert point.step == 20
    table = client.load_table(_experiment_id(client, experiment), "generations.json")
    assert table["text"].tolist() == [" ran."]


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    assert found
    return found.experiment_id


def test_report_data_whose_counts_do_not_add_up_fails(
    small: SmallPipeline, experiment: str
) -> None:
    broken = small.manifests["filter"].model_copy(update={"counts": {"num_in": 5, "num_kept": 6}})
    manifests = [*small.manifests.values(), broken]
    with (
        open_pipeline(experiment) as tracked,
        pytest.raises(ArtifactError, match="do not add up"),
    ):
        report_data(tracked, manifests)


def test_corpus_markdown_says_where_page_and_copy_are(small: SmallPipeline) -> None:
    page = ReportCorpusOutputs.of(small.store, make_report(small)).page
    report = read_corpus_report(page.with_name("report.json"))
    text = corpus_markdown(report, path=page, mlflow_url="http://127.0.0.1:5000/#/x")
    assert text.startswith(
        f"The page is `{page}`, and a copy in [MLflow](http://127.0.0.1:5000/#/x)"
    )
    assert "| download | documents | 100 | 100.0 % |" in text
    assert "6,700 training tokens; 3 of 4 domains are left." in text
    assert corpus_markdown(report, path=page, mlflow_url=None).startswith(f"The page is `{page}`.")


def test_report_published_says_where_it_is_and_keeps_the_card(
    small: SmallPipeline, experiment: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    files = {"dataset/README.md": "# Clean text"}
    published = make(small.store, PublishCorpusOutputs, "dataset", files=files).artifact
    with caplog.at_level("INFO"), open_pipeline(experiment) as tracked:
        report_published(tracked, published, small.store)
    assert f'load_dataset("{small.store.path(published)}/dataset")' in caplog.text
    client = MlflowClient(tracking_uri=local_mlflow_uri())
    path = client.download_artifacts(tracked.run_id, "dataset_card.md", str(tmp_path))
    assert Path(path).read_text() == "# Clean text"


def test_loss_plot_is_a_png_with_both_curves(small: SmallPipeline) -> None:
    events = read_events(TrainModelOutputs.of(small.store, small.artifact("train_model")).events)
    image = loss_plot(events)
    assert struct.unpack(">II", image[16:24]) == (700, 360)
    pixels = imread(io.BytesIO(image))[..., :3]
    for colour in ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)):  # matplotlib's first two
        distance = abs(pixels * 255 - colour).sum(axis=-1)
        assert (distance < 3).sum() > 100
    assert loss_plot(events) == image


def test_loss_plot_of_a_long_training_stays_small() -> None:
    events = [
        {"kind": "train", "step": step, "train/loss": 5 + (step % 7) / 7} for step in range(20_000)
    ]
    assert len(loss_plot(events)) < 100_000


def test_samples_markdown_shows_markup_as_it_is() -> None:
    sample = SampleText(prompt="# Tom", text=" *ran*\n<b>")
    assert samples_markdown([sample]) == "**\\# Tom** \\*ran\\*<br>\\<b\\>\n"
    assert samples_text([sample, sample]) == "[# Tom] *ran*\n<b>\n\n[# Tom] *ran*\n<b>\n"


def test_mlflow_markdown_tells_how_to_look_at_a_local_store() -> None:
    text = mlflow_markdown("sqlite:////data/mlflow.db", "abc")
    assert "`abc`" in text
    assert "mlflow server --workers 1 --backend-store-uri sqlite:////data/mlflow.db" in text
