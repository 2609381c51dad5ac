"""Draw the charts of a corpus report as SVG; colours come from the page, so both schemes fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.corpus.report.data import Histogram, Vocabulary
from tasks.corpus.report.elements import Markup, element

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 46
MOST_X_LABELS = 11
LEAST_SHORTENED = 10_000
Y_STEPS = 4
ROUND_FACTORS = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10)


@dataclass(frozen=True)
class Plane:
    """The drawing area: x and y from 0 to 1 become places in the picture."""

    def x(self, share: float) -> float:
        """Return where a share of the width lies."""
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def y(self, share: float) -> float:
        """Return where a share of the height lies, counted from below."""
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 2)


PLANE = Plane()


def histogram_chart(histogram: Histogram, *, title: str) -> Markup:
    """Return bars of the documents before, with those after in front of them."""
    bins = [place for place, count in enumerate(histogram.before) if count]
    bins += [place for place, count in enumerate(histogram.after) if count]
    if not bins:
        return element("p", "No document has a value.", class_="note")
    first, last = min(bins), max(bins)
    edges = histogram.edges[first : last + 2]
    before = histogram.before[first : last + 1]
    after = histogram.after[first : last + 1]
    top = nice_ceiling(max(*before, *after))
    bars = [*_bars(before, top, class_="before"), *_bars(after, top, class_="after")]
    return _chart(
        title,
        [*_y_axis(top), *bars, *_edge_labels(edges)],
        x_name=histogram.quantity,
        y_name="documents",
    )


def vocabulary_chart(vocabulary: Vocabulary, *, title: str) -> Markup:
    """Return the curve of distinct words over words."""
    if not vocabulary.words:
        return element("p", "There is no text.", class_="note")
    right, top = nice_ceiling(vocabulary.words[-1]), nice_ceiling(vocabulary.distinct[-1])
    points = [(0, 0), *zip(vocabulary.words, vocabulary.distinct, strict=True)]
    line = " ".join(f"{PLANE.x(x / right)},{PLANE.y(y / top)}" for x, y in points)
    labels = [
        _x_label(step / Y_STEPS, compact(right * step / Y_STEPS)) for step in range(Y_STEPS + 1)
    ]
    return _chart(
        title,
        [*_y_axis(top), element("polyline", points=line, class_="curve"), *labels],
        x_name="words read",
        y_name="distinct words",
    )


def nice_ceiling(value: float) -> float:
    """Return the least number not below a value whose quarters are round as well.

    Example:
        >>> nice_ceiling(1_730), nice_ceiling(61_111)
        (2000.0, 80000.0)
    """
    power = 10.0 ** math.floor(math.log10(max(1, value)))
    return next(factor * power for factor in ROUND_FACTORS if factor * power >= value)


def compact(value: float) -> str:
    """Return a number in few characters.

    Example:
        >>> compact(25_000), compact(2_048), compact(0.66)
        ('25k', '2,048', '0.66')
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= max(scale, LEAST_SHORTENED):
            return f"{value / scale:.3g}{unit}"
    return f"{value:,.4g}"


def _bars(counts: Sequence[int], top: float, *, class_: str) -> list[Markup]:
    gap = 0.5 / (WIDTH - LEFT - RIGHT)
    return [
        element(
            "rect",
            x=PLANE.x(place / len(counts) + gap),
            y=PLANE.y(count / top),
            width=round(
                PLANE.x((place + 1) / len(counts) - 2 * gap) - PLANE.x(place / len(counts)), 2
            ),
            height=round(PLANE.y(0) - PLANE.y(count / top), 2),
            class_=class_,
        )
        for place, count in enumerate(counts)
        if count
    ]


def _edge_labels(edges: Sequence[float]) -> list[Markup]:
    is_round = _is_round_share if edges[-1] <= 1 else _is_power_of_two
    places = [place for place, edge in enumerate(edges) if is_round(edge)] or [0, len(edges) - 1]
    stride = math.ceil(len(places) / MOST_X_LABELS)
    return [_x_label(place / (len(edges) - 1), compact(edges[place])) for place in places[::stride]]


def _is_round_share(value: float) -> bool:
    return abs(value * 10 - round(value * 10)) < 1e-9


def _is_power_of_two(value: float) -> bool:
    return value == 0 or math.log2(value).is_integer()


def _x_label(share: float, text: str) -> Markup:
    return element("text", text, x=PLANE.x(share), y=PLANE.y(0) + 16, text_anchor="middle")


def _y_axis(top: float) -> list[Markup]:
    parts = []
    for step in range(Y_STEPS + 1):
        y = PLANE.y(step / Y_STEPS)
        parts.append(
            element(
                "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid" if step else "axis"
            )
        )
        label = compact(top * step / Y_STEPS)
        parts.append(element("text", label, x=LEFT - 8, y=y + 4, text_anchor="end"))
    return parts


def _chart(title: str, parts: Sequence[Markup], *, x_name: str, y_name: str) -> Markup:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    names = [
        element("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"),
        element(
            "text",
            y_name,
            x=14,
            y=middle,
            text_anchor="middle",
            transform=f"rotate(-90 14 {middle})",
        ),
    ]
    return element(
        "svg",
        element("title", title),
        element("g", parts, names, aria_hidden="true"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )
