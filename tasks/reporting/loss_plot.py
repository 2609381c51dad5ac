"""The picture of a training: its losses over the steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from model.train.events import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_INCHES = (7.0, 3.6)
DOTS_PER_INCH = 100
EVERY_STEP_UP_TO = 1000  # points drawn of a curve; more cannot be told apart


def loss_picture(events: Sequence[Event]) -> bytes:
    """Return the training and validation loss over the steps, as a PNG picture."""
    # Half a second to import, which the processes of a flow that draw nothing would pay as well.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PICTURE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    _draw(axes, events, "train/loss", label="training", style="-")
    _draw(axes, events, "validation/loss", label="validation", style="o-")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _draw(axes: Axes, events: Sequence[Event], key: str, *, label: str, style: str) -> None:
    points = [(event["step"], event[key]) for event in events if key in event]
    stride = max(1, len(points) // EVERY_STEP_UP_TO)
    kept = points[::stride]
    axes.plot(
        [step for step, _ in kept], [loss for _, loss in kept], style, label=label, markersize=3
    )
