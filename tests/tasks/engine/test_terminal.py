"""tasks.engine.terminal: an expected error is a line on the terminal, a bug keeps its traceback."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.logging.handlers import PrefectConsoleHandler

from model.core.errors import ConfigError, TransientDownloadError
from tasks.engine.stage import let_logs_through
from tasks.engine.terminal import show_errors_briefly

EXPECTED = ConfigError("it cannot be", expected="x", found="y", where="z", fix="do w")


class Terminal:
    """A console handler as Prefect adds one, and a plain one after it."""

    def __init__(self) -> None:
        self.console, self.whole = io.StringIO(), io.StringIO()
        first = PrefectConsoleHandler(stream=self.console)
        first.setFormatter(logging.Formatter("%(name)s %(message)s"))
        self.handlers = [first, logging.StreamHandler(self.whole)]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    shown = Terminal()
    for handler in shown.handlers:
        logging.getLogger().addHandler(handler)
    yield shown
    for handler in shown.handlers:
        logging.getLogger().removeHandler(handler)


@flow(name="failing")
def failing(error: Exception) -> None:
    let_logs_through()
    raise error


def fail_with(error: Exception) -> None:
    with pytest.raises(type(error)):
        failing(error)


@pytest.mark.usefixtures("prefect_api")
def test_expected_error_of_a_flow_is_in_one_line_of_the_terminal_and_whole_elsewhere(
    terminal: Terminal,
) -> None:
    fail_with(EXPECTED)
    said = terminal.console.getvalue()
    lines = [line for line in said.splitlines() if "it cannot be" in line]
    assert "Encountered exception during execution: ConfigError: it cannot be" in lines[0]
    assert "Finished in state Failed" in lines[1]
    assert len(lines) == 2
    for words in ("Traceback", "do w", "expected"):
        assert words not in said
        assert words in terminal.whole.getvalue()


@pytest.mark.usefixtures("prefect_api")
def test_bug_of_a_flow_keeps_its_traceback(terminal: Terminal) -> None:
    fail_with(ZeroDivisionError("a bug"))
    said = terminal.console.getvalue()
    assert "Traceback" in said
    assert "ZeroDivisionError: a bug" in said


@pytest.mark.usefixtures("prefect_api")
def test_level_debug_brings_tracebacks_of_expected_errors_back(
    terminal: Terminal,
) -> None:
    engine = logging.getLogger("prefect")
    before = engine.level
    engine.setLevel(logging.DEBUG)
    try:
        fail_with(EXPECTED)
    finally:
        engine.setLevel(before)
    assert "Traceback" in terminal.console.getvalue()


def test_line_about_another_attempt_holds_the_problem_alone(terminal: Terminal) -> None:
    show_errors_briefly()
    show_errors_briefly()
    error = TransientDownloadError("no answer", fix="try again")
    logging.getLogger("prefect.task_runs").error("failed: %r - Retry %s/%s", error, 1, 5)
    said = terminal.console.getvalue()
    assert said == "prefect.task_runs failed: TransientDownloadError: no answer - Retry 1/5\n"


def test_line_that_does_not_name_its_error_gets_it(terminal: Terminal) -> None:
    show_errors_briefly()
    log = logging.getLogger("prefect.flow_runs")
    try:
        raise EXPECTED
    except ConfigError:
        log.exception("Engine execution exited with an exception")
    said = terminal.console.getvalue()
    assert said.endswith("Engine execution exited with an exception: ConfigError: it cannot be\n")
    assert "Traceback" not in said
