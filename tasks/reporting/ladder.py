"""Reports of a scaling ladder: its trainings, the fitted curve, and the predicted next training.

They become Prefect artifacts of the flow run, and files, metrics and the description of the MLflow
run, in which every training of the ladder is nested so that MLflow compares their curves.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import FlowRunContext

from model.config.outputs import TrainModelOutputs
from model.core.artifact import Artifact
from model.core.store import ArtifactStore
from model.eval.scaling_laws import LadderPoint, ScalingFit
from tasks.planning.ladder import short_count
from tasks.planning.plan import Plan
from tasks.reporting.outcome import report_outcome
from tasks.stages.fit_scaling import FitScalingOutputs
from tasks.tracking.run import TrackedPipeline

logger = logging.getLogger(__name__)


def report_ladder(
    tracked: TrackedPipeline,
    trained: Sequence[Artifact],
    fitted: Artifact,
    *,
    plan: Plan,
    store: ArtifactStore,
) -> None:
    """Report a finished ladder: its trainings, nested in this run, and its curve."""
    outputs = FitScalingOutputs.of(store, fitted)
    fit = outputs.read_fit()
    flops = {point.name: point.flops for point in fit.points}
    for item in trained:
        run_id = tracked.complete_nested_training(item, store)
        if run_id:
            steps = TrainModelOutputs.of(store, item).counts.steps
            tracked.record_metrics({"train/flops": flops[item.name]}, step=steps, run_id=run_id)
        report_outcome(
            tracked,
            item,
            expected=plan.training_of(item),
            store=store,
            training_run_id=run_id,
        )
    text = ladder_markdown(fit)
    logger.info("%s", text)
    tracked.record_description(text)
    tracked.record_table(ladder_rows(fit), "ladder.json")
    tracked.record_text(fit.model_dump_json(indent=1), outputs.fit.name)
    tracked.record_metrics(fit_metrics(fit))
    plot = outputs.plot
    content = plot.read_bytes() if plot.exists() else None  # a log, which may be gone
    if content:
        tracked.record_bytes(content, plot.name)
    if FlowRunContext.get():
        create_markdown_artifact(text, key="ladder", description="score over compute")
        if content:
            address = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            create_image_artifact(address, key="ladder-picture", description="score over compute")


def fit_metrics(fit: ScalingFit) -> dict[str, float]:
    """Return the constants of the curve and its prediction; nothing without a curve."""
    if fit.curve is None:
        return {}
    found = {"fit/exponent": fit.curve.exponent, "fit/floor": fit.curve.floor}
    if fit.residual_bits_per_byte is not None:
        found["fit/residual"] = fit.residual_bits_per_byte
    if fit.next_rung and fit.next_rung.bits_per_byte is not None:
        found["predicted/bits_per_byte"] = fit.next_rung.bits_per_byte
    return found


def ladder_rows(fit: ScalingFit) -> list[dict[str, Any]]:
    """Return the trainings as rows of a table."""
    return [_row(point, fit) for point in fit.points]


def _row(point: LadderPoint, fit: ScalingFit) -> dict[str, Any]:
    return {
        "training": point.name,
        "parameters": point.num_params,
        "tokens": point.tokens,
        "flops": point.flops,
        "bits_per_byte": point.bits_per_byte,
        "curve": fit.curve.at(point.flops) if fit.curve else None,
        "on_frontier": point.is_on_frontier,
    }


def ladder_markdown(fit: ScalingFit) -> str:
    """Return the table of a ladder, its curve and its prediction, as markdown."""
    lines = [
        "| training | parameters | tokens | FLOPs | bits per byte | curve |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for point in fit.points:
        curve = f"{fit.curve.at(point.flops):.4f}" if fit.curve else ""
        mark = "" if point.is_on_frontier else " (off the frontier)"
        lines.append(
            f"| {point.name}{mark} | {short_count(point.num_params)} "
            f"| {short_count(point.tokens)} | {point.flops:.2e} | {point.bits_per_byte:.4f} "
            f"| {curve} |"
        )
    return "\n".join([*lines, "", *_curve_lines(fit), *_next_lines(fit)]) + "\n"


def _curve_lines(fit: ScalingFit) -> list[str]:
    if fit.curve is None:
        return [fit.why]
    curve = fit.curve
    left = "the curve goes through them because it must"
    if fit.residual_bits_per_byte is not None:
        left = (
            f"degrees of freedom: {fit.degrees_of_freedom}, residual "
            f"{fit.residual_bits_per_byte:.4f} bits per byte"
        )
    return [
        f"`{fit.form}` with E = {curve.floor:.4f}, A = {curve.factor:.4f}, "
        f"alpha = {curve.exponent:.4f}, C0 = {curve.reference_flops:.3g} FLOPs "
        f"({fit.why}; {left})."
    ]


def _next_lines(fit: ScalingFit) -> list[str]:
    upcoming = fit.next_rung
    if upcoming is None or upcoming.bits_per_byte is None:
        return []
    spread = "no range can be told from two trainings"
    if upcoming.low is not None and upcoming.high is not None:
        spread = f"between {upcoming.low:.4f} and {upcoming.high:.4f} among the other fits"
    return [
        "",
        f"Next: {upcoming.size} on {short_count(upcoming.tokens)} tokens, {upcoming.flops:.2e} "
        f"FLOPs, should reach {upcoming.bits_per_byte:.4f} bits per byte ({spread}).",
    ]
