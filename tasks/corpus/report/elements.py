"""Write HTML and SVG elements whose text can never be taken for markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

VOID = {"meta", "col", "br"}
UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


class Markup(str):
    """Finished markup; any other text is escaped before it becomes part of an element."""

    __slots__ = ()


Child = str | Iterable[str] | None


def element(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element; attributes that are ``None`` are left out.

    A trailing underscore of an attribute is dropped and an inner one becomes a hyphen.

    Example:
        >>> element("p", "a < b", element("br"), class_="note")
        '<p class="note">a &lt; b<br></p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Return texts, escaped, and markup in one piece."""
    parts = []
    for child in children:
        if child is None:
            continue
        items = [child] if isinstance(child, str) else child
        parts += [item if isinstance(item, Markup) else escaped(item) for item in items]
    return Markup("".join(parts))


def escaped(text: str) -> str:
    """Return text as it stands in HTML; control characters become replacement characters."""
    return html.escape(UNSHOWABLE.sub("\ufffd", text))


def table(
    caption: Child,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    num_texts: int = 1,
    class_: str | None = None,
) -> Markup:
    """Return a table whose first columns are texts, the first of them a row header.

    Args:
        columns: headings.
        num_texts: columns that hold texts; the others hold numbers and are aligned right.
    """
    heads = [
        element("th", name, scope="col", class_=None if place < num_texts else "number")
        for place, name in enumerate(columns)
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", heads)),
            element("tbody", (_row(cells, num_texts) for cells in rows)),
            class_=class_,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=f"table: {', '.join(column for column in columns if column)}",
    )


def _row(cells: Sequence[str], num_texts: int) -> Markup:
    first, *rest = cells
    return element(
        "tr",
        element("th", first, scope="row"),
        (
            element("td", cell, class_=None if place < num_texts else "number")
            for place, cell in enumerate(rest, start=1)
        ),
    )


def bar(share: float, *, inner: float | None = None) -> Markup:
    """Return a bar beside a number that says the same; ``inner`` is the part of it that is left.

    Args:
        share: length of the bar, 0 to 1.
        inner: length of the part, 0 to 1.
    """
    parts = [element("span", class_="bar-before", style=f"width:{100 * share:.2f}%")]
    if inner is not None:
        parts.append(element("span", class_="bar-after", style=f"width:{100 * inner:.2f}%"))
    return element("span", parts, class_="bar", aria_hidden="true")


def number(value: float | None, *, digits: int = 0) -> str:
    """Return a number with thousands separated, a dash for none.

    Example:
        >>> number(12345.678, digits=1)
        '12,345.7'
    """
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(part: float, whole: float) -> str:
    """Return a share in percent.

    Example:
        >>> percent(1, 8), percent(0, 0)
        ('12.5 %', '–')
    """
    return f"{100 * part / whole:.1f} %" if whole else "–"


def size(num_bytes: float) -> str:
    """Return a size with a decimal unit.

    Example:
        >>> size(1_250_000)
        '1.2 MB'
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes:.0f} bytes"
