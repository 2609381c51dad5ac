"""A small data set on a hub of the tests, and an environment that points at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils import close_session, disable_progress_bars

from tasks.config.corpus import SourceConfig
from tests.support.hub_server import HubServer
from tests.support.source_files import make_rows, write_parquet

REPO = "owner/pages"
REVISION = "0123456789abcdef" * 2 + "01234567"
FILE_ROWS = (1_000, 600)  # of the two files of the hub


def hub_source(**settings: Any) -> SourceConfig:
    known: dict[str, Any] = {"repo": REPO, "revision": REVISION, "files": "data/*.parquet"}
    return SourceConfig(**known | settings)


@contextmanager
def hub_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Unset the user's settings for the hub; yield the list of waits, which are not slept."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    disable_progress_bars()
    pauses: list[float] = []
    library = SimpleNamespace(sleep=lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time", library)
    monkeypatch.setattr("tasks.corpus.sources.hub_client._sleep", pauses.append)
    yield pauses
    close_session()


@contextmanager
def pages_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serve three files of pages, and let HF_ENDPOINT name the server."""
    write_parquet(root / "data/b.parquet", make_rows(FILE_ROWS[1], first=FILE_ROWS[0]))
    write_parquet(root / "data/a.parquet", make_rows(FILE_ROWS[0]))
    write_parquet(root / "data/deeper/c.parquet", make_rows(10))
    (root / "README.md").write_text("# Pages\n")
    with HubServer(root, repo=REPO, revision=REVISION) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
