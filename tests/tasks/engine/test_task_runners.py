"""Ray and Dask as task runners: optional, chosen by one setting, and of no effect on a result."""

from __future__ import annotations

import importlib.util
import signal
import sys
import tomllib
from pathlib import Path

import psutil
import pytest

from model.core.errors import ConfigError
from tasks.config.run import RunConfig
from tasks.engine.pipeline import task_runner
from tasks.engine.task_runners import Extra
from tests.support.flow_process import ROOT, Home, run_flow, running_flow, wait_for_work

EXTRAS: list[Extra] = ["ray", "dask"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_task_runner_that_is_not_installed_names_its_extra(
    extra: Extra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"prefect_{extra}", None)
    with pytest.raises(ConfigError, match=f"extra '{extra}' of pyproject.toml") as caught:
        task_runner(RunConfig(task_runner=extra))
    assert caught.value.where == "run.task_runner"
    assert "make extras" in str(caught.value.fix)


def test_extras_of_the_task_runners_are_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["optional-dependencies"]) == EXTRAS
    locked = (ROOT / "requirements-extras.lock").read_text()
    assert all(f"\nprefect-{extra}==" in locked for extra in EXTRAS)


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the digests of a small prepared corpus, made by the default task runner."""
    return prepare(tmp_path_factory.mktemp("processes"), "processes")


def prepare(directory: Path, kind: str) -> dict[str, str]:
    home = Home(directory)
    done = run_flow(home, "prepare", run__task_runner=kind, run__workers=2)
    assert done.returncode == 0, done.stdout + done.stderr
    return {item.artifact.relative_path: item.content_digest for item in home.store.manifests()}


def skip_without(extra: str) -> None:
    if importlib.util.find_spec(f"prefect_{extra}") is None:
        pytest.skip(f"needs the optional extra '{extra}' of pyproject.toml")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", *EXTRAS])
def test_prepared_corpus_has_the_same_bytes_under_every_task_runner(
    kind: str, tmp_path: Path, in_processes: dict[str, str]
) -> None:
    if kind in EXTRAS:
        skip_without(kind)
    assert prepare(tmp_path, kind) == in_processes
    assert {path.split("/")[0] for path in in_processes} >= {"filter_documents", "write_shards"}


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_cluster_of_a_killed_flow_goes_with_it_and_the_next_run_ends_the_same(
    extra: Extra, tmp_path: Path, in_processes: dict[str, str]
) -> None:
    skip_without(extra)
    home = Home(tmp_path)
    settings = {"run__task_runner": extra, "run__workers": 2}
    with running_flow(home, "prepare", **settings) as flow:
        assert wait_for_work(home, "filter_documents", flow), (tmp_path / "flow.log").read_text()
        family = [
            child
            for child in psutil.Process(flow.pid).children(recursive=True)
            # A server that the flow started, as no answer came in time, stays behind.
            if "uvicorn" not in child.cmdline()
        ]
        assert family
        flow.send_signal(signal.SIGKILL)
        flow.wait()
        _, alive = psutil.wait_procs(family, timeout=180)  # idle agents of Ray take a minute
    assert [process.cmdline() for process in alive if process.is_running()] == []
    assert prepare(tmp_path, extra) == in_processes
