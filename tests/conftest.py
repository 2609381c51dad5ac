"""What all tests share: a private Prefect home, one Prefect API, optional real data."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tasks.corpus.duckdb_connection import Limits

# Read by libraries when they are imported, so set before any of them is.
_HOME = Path(tempfile.mkdtemp(prefix="llm-tests-"))
os.environ |= {
    "PREFECT_HOME": str(_HOME / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # small models: threads that wait for each other only cost time
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
os.environ.pop("PREFECT_API_URL", None)

BESIDE_CHECKOUT = Path(__file__).parent.parent.parent / "shared" / "data"
REAL_TEXT = Path(os.environ.get("LLM_REAL_TEXT") or BESIDE_CHECKOUT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that may take longest: side by side, the last ones end together.

    Their slow tests count even where those are left out: one order for every choice of tests.
    """
    allowed: dict[Path, float] = defaultdict(float)
    for item in items:
        marker = item.get_closest_marker("timeout")
        allowed[item.path] = max(allowed[item.path], marker.args[0] if marker else 0.0)
    items.sort(key=lambda item: -allowed[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real text (`chat/`, `eval/`, `web/`, `web_planted/`), or skip."""
    if not REAL_TEXT.is_dir():
        pytest.skip("set LLM_REAL_TEXT to a folder of web pages, chats and evaluation sets")
    return REAL_TEXT


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """Run one Prefect API with a database of its own for the whole session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    """Return what a corpus library may use in a test."""
    from tasks.corpus.duckdb_connection import Limits

    return Limits(memory_bytes=500_000_000, threads=2, spill_directory=tmp_path / "spill")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise here and end children: a shell has what it puts behind `&` ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train on one thread, in this process and in its children; how many there were comes back."""
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)
