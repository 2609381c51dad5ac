"""MLflow run of a training: nested in a pipeline run, complete exactly once per artifact.

A training in progress reports to its run by itself (``model.train.events``). Here its run is found
or made before it starts, and completed when its artifact is there: by the pipeline that trained, or
by a later one that found the artifact and reports to a store that lacks the run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.config.outputs import TrainModelOutputs
from model.config.train import TrackingConfig
from model.core.artifact import Derivation, Manifest
from model.export.registry import DIGEST_TAG, tracking_uri
from model.train.events import Event, metric_points, read_events, replay
from tasks.tracking.dataset_inputs import training_data
from tasks.tracking.mlflow_store import KEY_TAG, STORE_ERRORS, RunStore, flatten, shown_address

logger = logging.getLogger(__name__)

FINAL_METRICS = (
    "train/loss",
    "train/tokens",
    "validation/loss",
    "validation/bits_per_byte",
    "validation/preference_accuracy",
    "perf/tokens_per_second",
)
SAMPLES_NAME = "samples.json"
CHECKPOINT_WEIGHTS = re.compile(r"checkpoints/step-(\d+)/model\.safetensors")


def training_run(derivation: Derivation, *, parent_run_id: str | None) -> TrackingConfig:
    """Return where a training that is about to start reports to.

    An interrupted training resumes its run; otherwise a run nested in the
    pipeline's is made.

    Args:
        parent_run_id: the pipeline's run; ``None`` reports nowhere.
    """
    if parent_run_id is None:
        return TrackingConfig()
    uri = tracking_uri()
    try:
        runs = RunStore.beside(uri, run_id=parent_run_id)
        run_id = _unfinished(runs, derivation.key, parent_run_id)
        run_id = run_id or _create_training_run(runs, derivation, parent_run_id)
    except STORE_ERRORS as exc:
        logger.warning(
            "MLflow at %s takes no metrics of this training (%s); events.jsonl has them all",
            shown_address(uri),
            str(exc).partition("\n")[0],
        )
        return TrackingConfig()
    return TrackingConfig(uri=uri, run_id=run_id)


def _unfinished(runs: RunStore, key: str, parent_run_id: str) -> str | None:
    """Take over the newest run of a training that was not completed."""
    for run in runs.runs_of(key):
        if DIGEST_TAG not in run.data.tags:  # a run that has it is complete
            runs.adopt(run.info.run_id, parent_run_id=parent_run_id)
            return run.info.run_id
    return None


def _create_training_run(
    runs: RunStore,
    derivation: Derivation,
    parent_run_id: str,
    *,
    start_seconds: float | None = None,
) -> str:
    return runs.create_run(
        f"{derivation.stage}-{derivation.name}",
        # Only what the key covers: equal for every attempt, as MLflow's parameters never change.
        params=flatten(derivation.config),
        tags={KEY_TAG: derivation.key, "llm.artifact": derivation.artifact.relative_path},
        parent_run_id=parent_run_id,
        start_seconds=start_seconds,
    )


def complete_training(
    runs: RunStore, parent_run_id: str, *, manifest: Manifest, directory: Path
) -> str:
    """See that a finished training has one complete run, and return its id.

    Metrics that the run lacks are replayed from ``events.jsonl``; every kept checkpoint becomes a
    model of the run, by reference, with the metrics of its step.

    Args:
        parent_run_id: the pipeline's run, which a run that has to be made is nested in.
        directory: of the artifact.
    """
    for run in runs.runs_of(manifest.derivation.key):
        if run.data.tags.get(DIGEST_TAG) == manifest.content_digest:
            if run.info.status != "FINISHED":
                runs.end_run(run.info.run_id, "FINISHED")
            return run.info.run_id
    outputs = TrainModelOutputs(directory)
    events = read_events(outputs.events)
    run_id = _unfinished(runs, manifest.derivation.key, parent_run_id) or _create_training_run(
        runs, manifest.derivation, parent_run_id, start_seconds=events[0]["time"]
    )
    replay(outputs.events, uri=runs.uri, run_id=run_id)
    _link_checkpoints(runs, run_id, manifest, events)
    samples = sample_rows(events)
    if samples:
        runs.log_table(run_id, samples, SAMPLES_NAME)
    runs.log_data_sets(run_id, training_data(manifest))
    runs.set_tags(run_id, environment_tags(events) | {DIGEST_TAG: manifest.content_digest})
    runs.end_run(run_id, "FINISHED", end_seconds=events[-1]["time"])
    return run_id


def _link_checkpoints(
    runs: RunStore, run_id: str, manifest: Manifest, events: Sequence[Event]
) -> None:
    models = runs.models_of(run_id)
    for entry in manifest.files:
        match = CHECKPOINT_WEIGHTS.fullmatch(entry.path)
        if not match:
            continue
        step = int(match[1])
        name = model_name(f"{manifest.artifact.name}-step-{step}")
        model = models.get(name) or runs.create_external_model(
            name,
            run_id=run_id,
            model_type="checkpoint",
            tags={
                "uri": f"{manifest.artifact.relative_path}/{Path(entry.path).parent.as_posix()}",
                "sha256": entry.sha256,
                "step": str(step),
            },
        )
        here = (
            point for event in events if event["step"] == step for point in metric_points(event)
        )
        points = runs.points_at(run_id, step, keys=[point.key for point in here])
        runs.link_model(model, run_id=run_id, step=step, points=points)


def model_name(text: str) -> str:
    """Return a text as the name of a logged model, which takes few punctuation marks."""
    return re.sub(r"[^\w-]", "-", text)


def sample_rows(events: Iterable[Event]) -> list[dict[str, str | int]]:
    """Return what the model wrote at each validation, one row for each prompt and step."""
    return [
        {"step": event["step"], "prompt": item["prompt"], "text": item["text"]}
        for event in events
        if event["kind"] == "sample"
        for item in event.get("samples", ())
    ]


def final_metrics(events: Iterable[Event]) -> dict[str, float]:
    """Return the last value of the metrics by which pipeline runs are compared."""
    points = (point for event in events for point in metric_points(event))
    last = {point.key: point.value for point in points}
    return {key: last[key] for key in FINAL_METRICS if key in last}


def environment_tags(events: Iterable[Event]) -> dict[str, str]:
    """Return machine and precision of the newest start or resume, as tags."""
    tags: dict[str, str] = {}
    for event in events:
        if event["kind"] in ("start", "resume"):
            plain = event.keys() - {"time", "kind", "step"}
            tags = {f"training.{key}": str(event[key]) for key in plain if "/" not in key}
    return tags
