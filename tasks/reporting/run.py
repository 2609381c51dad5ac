"""Reports of a pipeline run: corpus funnel, loss plot, scores, samples, and links.

Each is a Prefect artifact of the current flow or task run, and a file of the MLflow run. Outside a
Prefect run, only MLflow gets it.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

from model.config.outputs import ScoreModelOutputs, TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.config import Config
from model.core.store import ArtifactStore
from model.data.prompts import read_generations
from model.train.events import read_events
from tasks.corpus.report.data import Report
from tasks.engine.terminal import render
from tasks.reporting.funnel import Funnel, funnel, funnel_table
from tasks.reporting.model_card import measured_facts
from tasks.reporting.plots import loss_plot
from tasks.stages.publish_corpus import PublishCorpusOutputs
from tasks.stages.report_corpus import ReportCorpusOutputs, read_corpus_report
from tasks.tracking.run import TrackedPipeline

logger = logging.getLogger(__name__)

TABLE_ROWS = 100  # of generations, in MLflow; all are in the store


class SampleText(Config):
    """What a model wrote after a prompt."""

    prompt: str
    text: str


def report_data(tracked: TrackedPipeline, manifests: Iterable[Manifest]) -> Funnel:
    """Report the data of a pipeline: its funnel, its digests, its data sets.

    Args:
        manifests: of all stages of the pipeline so far.

    Raises:
        ArtifactError: a stage is missing, or the counts do not add up.
    """
    manifests = list(manifests)
    found = funnel(manifests)
    tracked.record_data(manifests)
    tracked.record_table(found.as_rows(), "corpus_funnel.json")
    if in_prefect_run():
        create_table_artifact(
            found.as_rows(),
            key="corpus-funnel",
            description=f"{found.num_training} documents with {found.num_training_tokens} tokens "
            f"for training, {found.num_validation} documents for validation",
        )
    return found


def report_funnel(found: Funnel) -> None:
    """Log where the documents of a corpus went."""
    logger.info("%s", funnel_text(found))


def funnel_text(found: Funnel) -> str:
    """Return where the documents went, as a terminal shows it."""
    return f"where the documents went:\n{render(funnel_table(found))}"


def report_page(tracked: TrackedPipeline, report: Artifact, store: ArtifactStore) -> None:
    """Report the page of a corpus report: its path, its summary, and a copy in MLflow."""
    outputs = ReportCorpusOutputs.of(store, report)
    path = outputs.page
    tracked.record_bytes(path.read_bytes(), path.name)
    logger.info("corpus report: %s", path)
    if in_prefect_run():
        found = read_corpus_report(outputs.data)
        create_link_artifact(path.as_uri(), link_text="corpus report", key="corpus-report-page")
        create_markdown_artifact(
            corpus_markdown(found, path=path, mlflow_url=tracked.url),
            key="corpus-report",
            description="the corpus and its funnel",
        )


def corpus_markdown(report: Report, *, path: Path, mlflow_url: str | None) -> str:
    """Return a summary of a corpus report, and where to find its page.

    Args:
        path: of the page.
        mlflow_url: page of the MLflow run that holds a copy, if a server shows it.
    """
    copy = f", and a copy in [MLflow]({mlflow_url})" if mlflow_url else ""
    lines = [
        f"The page is `{path}`{copy}.",
        "",
        "| stage | what | documents | of source |",
        "|---|---|---:|---:|",
    ]
    lines += [
        f"| {plain_text(line.stage)} | {plain_text(line.what)} | {line.documents:,} "
        f"| {line.percent:.1f} % |"
        for line in report.funnel
    ]
    lines += [
        "",
        f"{report.tokens.training:,} training tokens; {report.domains.distinct_after:,} of "
        f"{report.domains.distinct_before:,} domains are left.",
    ]
    return "\n".join(lines) + "\n"


def report_published(tracked: TrackedPipeline, published: Artifact, store: ArtifactStore) -> None:
    """Report the path of a published corpus, and keep its card in MLflow."""
    outputs = PublishCorpusOutputs.of(store, published)
    folder = outputs.dataset
    card = outputs.card.read_text(encoding="utf-8")
    tracked.record_text(card, "dataset_card.md")
    logger.info('published corpus: %s, for datasets.load_dataset("%s")', folder, folder)
    if in_prefect_run():
        create_link_artifact(folder.as_uri(), link_text="published corpus", key="published-corpus")


def report_training(tracked: TrackedPipeline, trained: Artifact, store: ArtifactStore) -> None:
    """Report a finished training: complete its MLflow run, and plot its losses."""
    tracked.complete_training(trained, store)
    plot = loss_plot(read_events(TrainModelOutputs.of(store, trained).events))
    tracked.record_bytes(plot, "loss.png")
    if in_prefect_run():
        # A data URL: nothing else serves the image to a browser, and Prefect cuts data URLs out of
        # Markdown.
        address = f"data:image/png;base64,{base64.b64encode(plot).decode()}"
        create_image_artifact(address, key="loss", description=f"loss of {trained.name}")


def report_samples(tracked: TrackedPipeline, samples: Sequence[SampleText]) -> None:
    """Report sample texts of a model."""
    tracked.record_text(samples_text(samples), "samples.txt")
    if in_prefect_run():
        text = samples_markdown(samples)
        create_markdown_artifact(text, key="samples", description="texts the model wrote")


def report_scores(
    tracked: TrackedPipeline, measured: Sequence[Artifact], store: ArtifactStore
) -> None:
    """Report the scores of a model, and its sample texts.

    Args:
        measured: artifacts of score_model, then of further evaluation stages.
    """
    manifests = [store.read_manifest(item) for item in measured]
    rows = score_rows(manifests)
    tracked.record_metrics({f"score/{row['score']}": row["value"] for row in rows})
    tracked.record_table(rows, "scores.json")
    scored = ScoreModelOutputs.of(store, measured[0])
    report_samples(tracked, read_samples(scored))
    report_generations(tracked, scored.generations)
    for reason in _absent(manifests):
        logger.warning("not measured: %s", reason)
    if in_prefect_run():
        create_table_artifact(rows, key="scores", description="what the model scores")


def score_rows(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return all scores as rows of a table."""
    return [
        {"score": name, "value": float(value)}
        for manifest in manifests
        for name, value in measured_facts(manifest).scores.items()
    ]


def _absent(manifests: Iterable[Manifest]) -> list[str]:
    return [
        f"{name}: {reason}"
        for manifest in manifests
        for name, reason in measured_facts(manifest).unmeasured.items()
    ]


def report_generations(tracked: TrackedPipeline, path: Path) -> None:
    """Keep the first judged texts as a table in MLflow."""
    if path.is_file():
        rows = [item.model_dump() for item in read_generations(path)[:TABLE_ROWS]]
        tracked.record_table(rows, "generations.json")


def report_checkpoints(
    tracked: TrackedPipeline, checkpoints: Iterable[Artifact], store: ArtifactStore
) -> None:
    """Report the scores of checkpoints, each at its step."""
    for item in checkpoints:
        manifest = store.read_manifest(item)
        step = ScoreModelOutputs.facts_of(manifest).checkpoint_step
        assert step is not None, "a checkpoint was scored"
        metrics = {f"checkpoint/{row['score']}": row["value"] for row in score_rows([manifest])}
        tracked.record_metrics(metrics, step=step)


def report_summary(
    tracked: TrackedPipeline,
    manifests: Iterable[Manifest],
    *,
    scores: Sequence[Artifact],
    report: Artifact,
    store: ArtifactStore,
) -> None:
    """Log the summary of a run: funnel, scores, sample texts, and where its reports are."""
    measured = [store.read_manifest(item) for item in scores]
    scored = ScoreModelOutputs.of(store, scores[0])
    facts = scored.facts
    lines = [
        funnel_text(funnel(manifests)),
        "what the model writes (prompts in brackets):",
        samples_text(read_samples(scored)),
        f"validation: {facts.bits_per_byte:.4f} bits per byte, "
        f"{facts.validation_loss:.4f} nats per token",
        *further_scores(measured),
        f"corpus report: {ReportCorpusOutputs.of(store, report).page}",
        f"MLflow run: {tracked.url or f'{tracked.run_id} in {tracked.uri}'}",
    ]
    logger.info("%s", "\n".join(lines))


def further_scores(manifests: Sequence[Manifest]) -> list[str]:
    """Return the scores beyond bits per byte, a line for each evaluation stage."""
    shown = []
    for manifest in manifests:
        pairs = [
            f"{row['score']} {row['value']:.4g}"
            for row in score_rows([manifest])
            if row["score"] not in ("bits_per_byte", "validation_loss")
        ]
        shown += [f"{manifest.artifact.stage}: {', '.join(pairs)}"] if pairs else []
    return shown


def report_mlflow_run(tracked: TrackedPipeline) -> None:
    """Link to the run in MLflow, or show how to open its local store."""
    if tracked.run_id is None or not in_prefect_run():
        return
    if tracked.url:
        create_link_artifact(tracked.url, link_text="run in MLflow", key="mlflow-run")
    else:
        create_markdown_artifact(mlflow_markdown(tracked.address, tracked.run_id), key="mlflow-run")


def in_prefect_run() -> bool:
    """Return whether a flow or task run is active, to which Prefect artifacts can belong."""
    return bool(FlowRunContext.get() or TaskRunContext.get())


def read_samples(scores: ScoreModelOutputs) -> tuple[SampleText, ...]:
    """Return the sample texts of a score_model artifact.

    Args:
        scores: its directory.
    """
    found = json.loads(scores.scores.read_text(encoding="utf-8"))
    return tuple(SampleText.model_validate(item) for item in found["samples"])


def samples_text(samples: Sequence[SampleText]) -> str:
    """Return texts, each after its prompt in brackets."""
    return "\n\n".join(f"[{item.prompt}]{item.text}" for item in samples) + "\n"


def samples_markdown(samples: Sequence[SampleText]) -> str:
    """Return texts as Markdown, the prompts in bold and all text escaped."""
    return "\n".join(f"**{plain_text(item.prompt)}**{plain_text(item.text)}\n" for item in samples)


def plain_text(text: str) -> str:
    """Return text escaped for Markdown."""
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+-.!|~&$" else char for char in text)
    return "<br>".join(escaped.splitlines())


def mlflow_markdown(uri: str, run_id: str) -> str:
    """Return how to open a run of a local store in MLflow."""
    return (
        f"Run `{run_id}` is in the MLflow store `{uri}`. To look at it:\n\n"
        f"```\nmlflow server --workers 1 --backend-store-uri {uri}\n```\n"
    )
