"""Jinja2 templates of the corpus libraries: undefined names fail, blocks leave no lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from rich.filesize import decimal


def render(template: Path, **context: Any) -> str:
    """Return a filled-in template, values escaped if it is ``*.html.jinja``.

    It includes files of its own folder, and has the filters ``number``, ``percent``, ``size`` (of
    bytes) and ``json``.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=select_autoescape(["html.jinja"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number, "percent": percent, "size": decimal, "json": json.dumps
    }  # fmt: skip
    return environment.get_template(template.name).render(context)


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separated, a dash for none.

    Example:
        >>> number(12345.678, digits=1)
        '12,345.7'
    """
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(part: float, whole: float) -> str:
    """Return a share in percent, a dash for a share of nothing.

    Example:
        >>> percent(1, 8), percent(0, 0)
        ('12.5 %', '–')
    """
    return f"{100 * part / whole:.1f} %" if whole else "–"
