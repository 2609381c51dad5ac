"""Tables as plain text, for logs and terminals."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

WIDTH_CHARS = 110
WHOLE_CHARS = 10_000  # cuts nothing: for files and pipes


def render(table: Table, *, width_chars: int = WIDTH_CHARS) -> str:
    """Return a table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width_chars, color_system=None).print(table)
    return stream.getvalue().rstrip()
