"""PNG plots of trainings: loss over steps; score over tokens and compute, with a fitted curve.

matplotlib takes half a second to import, so only the functions that draw import it: the processes
of a flow that draw nothing do not wait for it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from model.eval.scaling_laws import LadderPoint, ScalingFit
from model.train.events import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_INCHES = (7.0, 3.6)
SCALING_INCHES = (11.0, 4.2)
DOTS_PER_INCH = 100
MAX_LOSS_POINTS = 1000  # of a curve, about; more cannot be told apart
CURVE_POINTS = 200

Curve = Sequence[tuple[float, float]]


def loss_plot(events: Sequence[Event]) -> bytes:
    """Return the training and validation loss over the steps, as a PNG."""
    figure = _figure(LOSS_INCHES)
    axes = figure.subplots()
    for key, label, style in (
        ("train/loss", "training", "-"),
        ("validation/loss", "validation", "o-"),
    ):
        curve = _curve(events, key)
        kept = curve[:: max(1, len(curve) // MAX_LOSS_POINTS)]
        steps, losses = [step for step, _ in kept], [loss for _, loss in kept]
        axes.plot(steps, losses, style, label=label, markersize=3)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _png(figure)


def validation_curve(events: Sequence[Event]) -> Curve:
    """Return (step, bits per byte) of every validation of a training."""
    return _curve(events, "validation/bits_per_byte")


def scaling_plot(fit: ScalingFit, curves: Mapping[str, Curve]) -> bytes:
    """Return score over tokens and score over compute side by side, as a PNG.

    Args:
        curves: name of a training -> (step, bits per byte) of its validations.
    """
    figure = _figure(SCALING_INCHES)
    over_tokens, over_compute = figure.subplots(1, 2, sharey=True)
    for number, point in enumerate(fit.points):
        color = f"C{number % 10}"
        _draw_training(over_tokens, point, curves.get(point.name, ()), color=color)
        filled = color if point.is_on_frontier else "none"
        over_compute.plot(point.flops, point.bits_per_byte, "o", color=color, mfc=filled)
    _draw_fit(over_compute, fit)
    for axes, label in ((over_tokens, "training tokens"), (over_compute, "training FLOPs")):
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    over_tokens.set_ylabel("validation, bits per byte")
    return _png(figure)


def _curve(events: Sequence[Event], key: str) -> Curve:
    return [(event["step"], event[key]) for event in events if key in event]


def _draw_training(axes: Axes, point: LadderPoint, curve: Curve, *, color: str) -> None:
    last = max((step for step, _ in curve), default=0)
    ends = [(step / last * point.tokens, bits) for step, bits in curve if step]
    tokens, bits = zip(*(ends or [(point.tokens, point.bits_per_byte)]), strict=True)
    axes.plot(tokens, bits, "o-", color=color, markersize=3, label=point.name)


def _draw_fit(axes: Axes, fit: ScalingFit) -> None:
    """Draw the curve, the range of the alternative fits, and the predicted next training."""
    known = [point.flops for point in fit.points]
    upcoming = fit.next_rung
    if fit.curve:
        most = max(known + ([upcoming.flops] if upcoming else []))
        places = np.geomspace(min(known), most, CURVE_POINTS)
        axes.plot(places, [fit.curve.at(flops) for flops in places], "k-", lw=1, label=fit.form)
        if fit.alternatives:
            spans = [fit.span(flops) for flops in places]
            low, high = (np.array(side, dtype=float) for side in zip(*spans, strict=True))
            axes.fill_between(places, low, high, color="k", alpha=0.1, label="other fits")
    if upcoming and upcoming.bits_per_byte:
        label = f"predicted: {upcoming.size}, {upcoming.bits_per_byte:.3f}"
        axes.plot(upcoming.flops, upcoming.bits_per_byte, "k*", markersize=10, label=label)
    if not all(point.is_on_frontier for point in fit.points):
        axes.plot([], [], "o", color="k", mfc="none", label="not on the frontier")


def _figure(inches: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
