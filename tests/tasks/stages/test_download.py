"""The stage download with real processes: kills, two at once, and Prefect's retries."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from prefect import flow

from model.core.errors import DownloadError
from model.core.store import ArtifactStore
from tasks.config.run import RunConfig
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS
from tasks.engine.pipeline import Pipeline, task_runner
from tasks.engine.stage import ResourceShare
from tasks.stages.download import Download, build, download, source_files
from tests.support.hub_pages import hub_environment, hub_source, pages_hub
from tests.support.hub_server import HubServer
from tests.support.source_files import local, make_rows, write_parquet

PATH = "data/a.parquet"
SHARE = ResourceShare(threads=1, memory_bytes=10**9)
SECONDS = 60.0  # until a process that should come or go counts as stuck


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with hub_environment(monkeypatch):
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with pages_hub(tmp_path / "repository", monkeypatch) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def first_file(store: ArtifactStore) -> Download:
    return source_files(hub_source(), data_seed=1, store=store)[0]


def make(root: Path, config: Download) -> None:
    """Make one download artifact: runs here, or as another process."""
    derivation = download.derive(config.file.name, config=config, inputs={})
    store = ArtifactStore(root)
    store.build(derivation, lambda work: build(work, config, SHARE), resume=download.resume)


def start(store: ArtifactStore, config: Download) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=make, args=(store.root, config))
    process.start()
    return process


def wait_for_bytes(store: ArtifactStore, num_bytes: int, process: BaseProcess) -> None:
    """Return when a partial file has its length; fail when the process that writes it ends."""
    while num_bytes not in [path.stat().st_size for path in store.root.rglob("*.partial")]:
        process.join(0.02)
        assert process.is_alive()


def finish(process: BaseProcess) -> int | None:
    process.join(SECONDS)
    return process.exitcode


def assert_whole(hub: HubServer, store: ArtifactStore) -> None:
    [manifest] = store.manifests("download")
    directory = store.path(manifest.artifact)
    assert (directory / "raw.parquet").read_bytes() == (hub.root / PATH).read_bytes()
    assert [path.name for path in sorted(directory.iterdir())] == ["manifest.json", "raw.parquet"]
    assert not list(store.root.glob("download/*.work"))


def test_download_killed_in_the_middle_goes_on_with_the_rest(
    hub: HubServer, store: ArtifactStore
) -> None:
    config = first_file(store)
    hub.faults[PATH] = ["stall"]
    num_bytes = (hub.root / PATH).stat().st_size
    process = start(store, config)
    assert hub.stalled.wait(SECONDS)
    wait_for_bytes(store, num_bytes // 2, process)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process) == -signal.SIGKILL
    [work] = store.root.glob("download/*.work")
    (work / ".raw.parquet.tmp").write_bytes(b"left by another kill")
    hub.reset_counts()
    make(store.root, config)
    assert_whole(hub, store)
    assert hub.bytes_sent[PATH] == num_bytes - num_bytes // 2


def test_download_by_two_processes_at_once_is_fetched_by_one(
    hub: HubServer, store: ArtifactStore
) -> None:
    config = first_file(store)
    hub.faults[PATH] = ["stall"]
    first, second = start(store, config), start(store, config)
    assert hub.stalled.wait(SECONDS)
    lock = next(store.root.glob("download/.locks/*.lock"))
    for process in (first, second):  # both are there before the body goes on
        while not has_open(process, lock):
            process.join(0.02)
            assert process.is_alive()
    hub.resume.set()
    assert [finish(first), finish(second)] == [0, 0]
    assert_whole(hub, store)
    assert hub.num_requests[f"GET {PATH}"] == 1


def has_open(process: BaseProcess, path: Path) -> bool:
    return str(path) in [item.path for item in psutil.Process(process.pid).open_files()]


def test_download_of_other_kinds_starts_from_an_empty_directory(
    store: ArtifactStore, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "pages/a.parquet", make_rows(20))
    config = source_files(local(tmp_path / "pages"), data_seed=1, store=store)[0]
    artifact = download.derive(config.file.name, config=config, inputs={}).artifact
    orphan = store.work_path(artifact) / "half/.raw.parquet.tmp"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"left by a kill")
    make(store.root, config)
    assert [path.name for path in sorted(store.path(artifact).iterdir())] == [
        "manifest.json",
        "raw.parquet",
    ]


def run_in_flow(store: ArtifactStore, config: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage as its Prefect task, without the pauses between retries."""
    task = type(download).prefect_task.fget(download)  # type: ignore[attr-defined]
    at_once = property(lambda _stage: task.with_options(retry_delay_seconds=0))
    monkeypatch.setattr(type(download), "prefect_task", at_once)

    @flow(name="downloads")
    def body() -> None:
        settings = RunConfig(task_runner="threads", workers=1)
        with task_runner(settings) as runner:
            pipeline = Pipeline(store, settings, runner=runner)
            pipeline.add(download, config.file.name, config=config, inputs={})
            pipeline.finish()

    body()


@pytest.mark.usefixtures("prefect_api")
def test_download_is_retried_by_its_task_after_a_long_outage(
    hub: HubServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = first_file(store)
    hub.faults[PATH] = ["truncate", *[503] * MAX_ATTEMPTS, *[503] * 2]
    run_in_flow(store, config, monkeypatch)
    assert_whole(hub, store)
    assert hub.bytes_sent[PATH] == (hub.root / PATH).stat().st_size


@pytest.mark.usefixtures("prefect_api")
def test_download_that_is_forbidden_is_not_retried(
    hub: HubServer, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = first_file(store)
    hub.faults[PATH] = 403
    with pytest.raises(DownloadError, match="forbids"):
        run_in_flow(store, config, monkeypatch)
    assert hub.num_requests[f"GET {PATH}"] == 1
