"""Terminal output: tables as plain text, and user-fixable errors in one line.

Prefect logs the exception of a task and of its flow with traceback, twice each. The command of a
flow ends with the whole message of an LLMError, so before it only a line says which run met it.
Prefect's API gets its logs as they are, and ``PREFECT_LOGGING_LEVEL=DEBUG`` brings everything back
to the terminal. An error of another kind is a bug: its traceback stays.
"""

from __future__ import annotations

import copy
import io
import logging

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.table import Table

from model.core.errors import LLMError

ENGINE = "prefect"  # logger above those of all runs
RUNS = ("prefect.flow_runs", "prefect.task_runs")
LINE_END_IN_REPR = "\\n"
WIDTH_CHARS = 110
UNFOLDED_CHARS = 10_000  # wider than any table: for files and pipes


def render(table: Table, *, width_chars: int = WIDTH_CHARS) -> str:
    """Return a table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width_chars, color_system=None).print(table)
    return stream.getvalue().rstrip()


class BriefErrors(logging.Formatter):
    """Format records as another formatter does, expected errors in one line.

    Args:
        whole: the other formatter.
    """

    def __init__(self, whole: logging.Formatter | None) -> None:
        super().__init__()
        self._whole = whole or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record; other handlers get to see it unchanged."""
        is_of_a_run = record.name.startswith(RUNS)
        if is_of_a_run and not logging.getLogger(ENGINE).isEnabledFor(logging.DEBUG):
            record = _brief(record)
        return self._whole.format(record)


def show_errors_briefly() -> None:
    """Have this process's terminal show expected errors in one line; twice is once."""
    for handler in logging.getLogger().handlers:
        is_ours = isinstance(handler.formatter, BriefErrors)
        if isinstance(handler, PrefectConsoleHandler) and not is_ours:
            handler.setFormatter(BriefErrors(handler.formatter))


def _brief(record: logging.LogRecord) -> logging.LogRecord:
    error = record.exc_info[1] if record.exc_info else _error_in_arguments(record)
    text = record.getMessage()
    if isinstance(error, LLMError):
        short = f"{type(error).__name__}: {error.problem}"
        text = text.replace(repr(error), short)
        if short not in text:
            text = f"{text}: {short}"
    elif text.startswith("Finished in state ") and LINE_END_IN_REPR in text:
        text = f"{text.partition(LINE_END_IN_REPR)[0]} ..."  # it holds the repr of a message
    else:
        return record
    brief = copy.copy(record)
    brief.msg, brief.args, brief.exc_info, brief.exc_text = text, None, None, None
    return brief


def _error_in_arguments(record: logging.LogRecord) -> object:
    """Return the error that a line about another attempt names."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((item for item in arguments if isinstance(item, LLMError)), None)
