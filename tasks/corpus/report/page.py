"""HTML page of a corpus report: ``report.html.jinja``, ``report.css``, and charts by matplotlib.

The page needs no script and nothing from outside, and follows the reader's colour scheme: colours
of the charts become variables of its style sheet. Texts of documents are escaped by the template
engine, and the page's own policy forbids scripts and addresses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from tasks.corpus.report.data import Histogram, Pair, Report, Vocabulary
from tasks.corpus.report.examples import ELLIPSIS
from tasks.corpus.templates import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_name("report.html.jinja")
WORD = re.compile(r"\s*\S+\s*|\s+")  # with the blanks around it
UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")

CHART_INCHES = (640 / 72, 240 / 72)  # an SVG has 72 units per inch
CHART_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True, "axes.facecolor": "none", "figure.facecolor": "none",
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False,
    "axes.xmargin": 0, "font.size": 12, "svg.fonttype": "none",
    "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip
BEFORE, AFTER, AXIS, GRID = "#000001", "#000002", "#000003", "#000004"  # stand for:
COLORS = {BEFORE: "var(--before)", AFTER: "var(--after)", AXIS: "var(--quiet)", GRID: "var(--line)"}
# An id may be on the page once, and its style sheet chooses the font.
DROPPED_FROM_SVG = re.compile(r' id="[^"]*"|font-size: [^"]*?(?=text-anchor)')


class Piece(NamedTuple):
    """Part of an excerpt, and whether the other excerpt of its pair lacks it."""

    text: str
    is_different: bool


def page(report: Report) -> str:
    """Return the page of a report."""
    text = render(
        TEMPLATE,
        report=report,
        num_before=report.funnel[0].documents,
        num_after=report.tokens.training_documents,
        losses=sorted(report.losses, key=lambda item: (-item.documents, item.stage, item.reason)),
        pairs=[(pair, differences(pair)) for pair in report.pairs],
        histogram_chart=histogram_chart,
        vocabulary_chart=vocabulary_chart,
    )
    return UNSHOWABLE.sub("\ufffd", text)


def differences(pair: Pair) -> tuple[list[Piece], list[Piece]]:
    """Return the excerpts of a pair in pieces, removed and kept; blanks are not compared.

    Where both are cut off, text left over at the end of one of them is no difference.
    """
    one, other = pair.removed.text or "", pair.kept.text or ""
    if not (one and other):
        return [Piece(one, is_different=False)], [Piece(other, is_different=False)]
    words = WORD.findall(one), WORD.findall(other)
    stripped = [[word.strip() for word in side] for side in words]
    changes = SequenceMatcher(None, *stripped, autojunk=False).get_opcodes()
    is_cut = one.endswith(ELLIPSIS) and other.endswith(ELLIPSIS)
    removed, kept = [], []
    for place, (kind, start, end, other_start, other_end) in enumerate(changes, start=1):
        is_different = kind != "equal" and not (is_cut and place == len(changes))
        removed.append(Piece("".join(words[0][start:end]), is_different))
        kept.append(Piece("".join(words[1][other_start:other_end]), is_different))
    return removed, kept


def histogram_chart(histogram: Histogram) -> Markup | None:
    """Return the documents before, with those after in front of them; None without any."""
    sides = zip(histogram.before, histogram.after, strict=True)
    bins = [place for place, counts in enumerate(sides) if any(counts)]
    if not bins:
        return None
    shown = slice(bins[0], bins[-1] + 1)
    edges = histogram.edges[bins[0] : bins[-1] + 2]

    def draw(axes: Axes) -> None:
        if edges[-1] > 1:  # lengths
            axes.set_xscale("symlog", base=4, linthresh=1, linscale=0.5)
        for counts, color in ((histogram.before, BEFORE), (histogram.after, AFTER)):
            axes.stairs(counts[shown], edges, fill=True, color=color, clip_on=False)
        axes.set_xlim(edges[0], edges[-1])

    title = f"{histogram.quantity} of the documents, before and after"
    return _chart(draw, title=title, x_name=histogram.quantity, y_name="documents")


def vocabulary_chart(vocabulary: Vocabulary) -> Markup | None:
    """Return the curve of distinct words over words; None without text."""
    if not vocabulary.words:
        return None

    def draw(axes: Axes) -> None:
        words, distinct = (0, *vocabulary.words), (0, *vocabulary.distinct)
        axes.plot(words, distinct, color=AFTER, linewidth=2, clip_on=False)

    title = "distinct words over words of training text"
    return _chart(draw, title=title, x_name="words read", y_name="distinct words")


def _chart(draw: Callable[[Axes], None], *, title: str, x_name: str, y_name: str) -> Markup:
    """Return an ``svg`` element whose texts stay texts."""
    # Half a second to import, which only the process that draws should pay.
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=CHART_INCHES, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(xlabel=x_name, ylabel=y_name)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=GRID, clip_on=False)
        axes.spines["bottom"].set_color(AXIS)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")
        figure.savefig(stream, format="svg")
    drawn = DROPPED_FROM_SVG.sub("", stream.getvalue().partition("</defs>")[2])
    for color, variable in COLORS.items():
        drawn = drawn.replace(color, variable)
    return Markup(
        '<svg viewBox="0 0 640 240" role="img" aria-label="{}">\n<title>{}</title>{}'
    ).format(title, title, Markup(drawn))  # noqa: S704
