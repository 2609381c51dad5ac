"""The picture of a ladder: score over tokens, and score over compute with the fitted curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.eval.scaling_laws import LadderPoint, ScalingFit
from model.train.events import Event

PICTURE_INCHES = (11.0, 4.2)
DOTS_PER_INCH = 100
CURVE_POINTS = 200

Curve = Sequence[tuple[float, float]]


def validation_curve(events: Sequence[Event]) -> Curve:
    """Return (step, bits per byte) of every validation of a training."""
    key = "validation/bits_per_byte"
    return [(event["step"], event[key]) for event in events if key in event]


def scaling_picture(fit: ScalingFit, curves: Mapping[str, Curve]) -> bytes:
    """Return both plots side by side, as a PNG picture.

    Args:
        curves: name of a training -> (step, bits per byte) of its validations.
    """
    figure = Figure(figsize=PICTURE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
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
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _draw_training(axes: Axes, point: LadderPoint, curve: Curve, *, color: str) -> None:
    last = max((step for step, _ in curve), default=0)
    ends = [(step / last * point.tokens, bits) for step, bits in curve if step]
    places, bits = zip(*(ends or [(point.tokens, point.bits_per_byte)]), strict=True)
    axes.plot(places, bits, "o-", color=color, markersize=3, label=point.name)


def _draw_fit(axes: Axes, fit: ScalingFit) -> None:
    """Draw the curve with what its alternatives span, and the training after the last."""
    known = [point.flops for point in fit.points]
    upcoming = fit.next_rung
    if fit.curve:
        most = max(known + ([upcoming.flops] if upcoming else []))
        places = np.geomspace(min(known), most, CURVE_POINTS)
        axes.plot(places, [fit.curve.at(flops) for flops in places], "k-", lw=1, label=fit.form)
        spans = [fit.span(flops) for flops in places]
        if fit.alternatives:
            low, high = (np.array(side, dtype=float) for side in zip(*spans, strict=True))
            axes.fill_between(places, low, high, color="k", alpha=0.1, label="other fits")
    if upcoming and upcoming.bits_per_byte:
        label = f"predicted: {upcoming.size}, {upcoming.bits_per_byte:.3f}"
        axes.plot(upcoming.flops, upcoming.bits_per_byte, "k*", markersize=10, label=label)
    if not all(point.is_on_frontier for point in fit.points):
        axes.plot([], [], "o", color="k", mfc="none", label="not on the frontier")
