"""Tables as plain text, for logs and terminals."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

WIDTH_CHARS = 110


def render(table: Table) -> str:
    """Return a table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=WIDTH_CHARS, color_system=None).print(table)
    return stream.getvalue().rstrip()
