"""Trainings in two processes that meet what happens to long ones: real signals, full disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from model.config.outputs import EVENTS_NAME
from model.config.runs import ErrorReport, TrainResult, TrainRun, settled_result
from model.config.train import TrackingConfig
from model.core.errors import ChildError, ChildInterruptedError
from tasks.engine.child import Child
from tests.support.flow_process import Home, run_flow, running_flow
from tests.support.launched_training import (
    artifact_path,
    kill,
    last_step,
    losses,
    processes_of,
    starts,
    train_here,
    weights,
    work_of,
)
from tests.support.small_training import make_data_root, small_run

NUM_STEPS = 60
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills orphans")


@pytest.fixture(autouse=True)
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the child often, to meet it in the middle of a short training."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("tasks.engine.child.POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


def two_processes(root: Path, name: str, **train: object) -> TrainRun:
    chosen = {"steps": NUM_STEPS, "processes": 2, "checkpoint_every_steps": 5} | train
    return small_run(root, name=name, train={"validate_every_steps": 30, **chosen})


@pytest.fixture(scope="module")
def whole(root: Path) -> TrainRun:
    """Return a training in two processes that nothing happened to."""
    run = two_processes(root, "whole")
    train_here(run)
    assert starts(run) == ["start"]
    return run


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("victims", [("0",), ("1",), ("0", "1"), ("agent",)], ids="+".join)
def test_killed_processes_are_started_again_and_the_training_ends_the_same(
    root: Path, whole: TrainRun, victims: tuple[str, ...]
):
    run = two_processes(root, f"killed-{'-'.join(victims)}")
    seen: list[Path] = []

    def strike(child: Child) -> None:
        seen.append(child.config)
        kill(*victims)(child)

    train_here(run, (10, strike))
    assert starts(run) == ["start", "resume"]
    assert weights(run) == weights(whole)
    assert losses(run) == losses(whole)
    assert processes_of(seen[0]) == {}


@pytest.mark.slow
@linux_only
def test_killed_once_too_often_fails_with_the_log_and_goes_on_when_run_again(
    root: Path, whole: TrainRun
):
    run = two_processes(root, "fragile", max_restarts=0)
    with pytest.raises(ChildError, match=r"(?s)exit code 1.*exitcode *: -9") as caught:
        train_here(run, (10, kill("1")))
    log = Path(caught.value.where)
    assert log.exists()
    assert processes_of(log.parent / "config.json") == {}
    train_here(run)
    assert weights(run) == weights(whole)
    assert losses(run) == losses(whole)


@pytest.mark.slow
def test_training_stopped_in_two_processes_goes_on_in_one_with_the_same_losses(
    root: Path, whole: TrainRun
):
    run = two_processes(root, "shrinks", max_restarts=2)

    def terminate(child: Child) -> None:
        processes_of(child.config)["agent"].terminate()

    with pytest.raises(ChildInterruptedError, match="saved its work at step"):
        train_here(run, (10, terminate))
    alone = run.model_copy(update={"train": run.train.model_copy(update={"processes": 1})})
    train_here(alone)
    assert starts(run) == ["start", "resume"]
    assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
    assert loader_state(run) == loader_state(whole)


def loader_state(run: TrainRun) -> object:
    """Return where in the data the last checkpoint stands."""
    path = artifact_path(run) / "checkpoints" / f"step-{NUM_STEPS:08d}" / "state.json"
    return json.loads(path.read_text())["loop"]["loader"]


@pytest.mark.slow
def test_one_terminated_rank_stops_all_and_torchrun_does_not_start_them_again(root: Path):
    run = two_processes(root, "one-told", steps=400)

    def terminate(child: Child) -> None:
        processes_of(child.config)["1"].terminate()

    with pytest.raises(ChildInterruptedError):
        train_here(run, (10, terminate))
    assert starts(run) == ["start"]


@pytest.mark.slow
def test_loss_that_is_not_finite_is_not_tried_again(root: Path):
    run = two_processes(root, "explodes", learning_rate=1e30, warmup_steps=0)
    with pytest.raises(ChildError, match=r"(?s)not finite.*what to do: lower"):
        train_here(run)
    assert starts(run) == ["start"]


def full_disk(path: Path, *, num_bytes: int) -> None:
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(root: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a data root on a disk with room for two checkpoints and not for three."""
    disk = tmp_path / "disk"
    full_disk(disk, num_bytes=60_000_000)
    try:
        for name in ("tokenizer", "training", "validation"):
            shutil.copytree(root / name, disk / name)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_full_disk_stops_both_processes_names_it_and_keeps_the_checkpoint_before(
    small_disk: Path,
):
    run = two_processes(small_disk, "full", keep_checkpoints=100)
    with pytest.raises(ChildError, match=r"(?s)disk filled up.*bytes free.*free some space"):
        train_here(run)
    assert starts(run) == ["start"]
    kept = sorted(path.name for path in (work_of(run).path / "checkpoints").iterdir())
    assert kept
    assert not any(name.endswith(".tmp") for name in kept)
    for name in kept[:-1]:
        shutil.rmtree(work_of(run).path / "checkpoints" / name)
    train_here(
        run.model_copy(update={"train": run.train.model_copy(update={"keep_checkpoints": 1})})
    )
    assert starts(run) == ["start", "resume"]


def reach(home: Home, step: int, flow: subprocess.Popen[bytes]) -> Path:
    """Wait until a flow's training has done a step, and return the path of its config."""
    while flow.poll() is None:
        for events in home.data.glob(f"train_model/*.work/{EVENTS_NAME}"):
            if last_step(events) >= step:
                configs = home.data.glob("train_model/.launch/*/config.json")
                return max(configs, key=lambda path: path.stat().st_mtime)
        time.sleep(0.01)
    pytest.fail((home.directory / "flow.log").read_text())


def group_members(group: int) -> list[psutil.Process]:
    """Return the live processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and os.getpgid(process.pid) == group:
                found.append(process)
    return found


def training_runs(home: Home) -> list[Any]:
    """Return the runs of trainings in a home's MLflow store."""
    client = MlflowClient(home.mlflow_uri)
    ids = [item.experiment_id for item in client.search_experiments()]
    return [run for run in client.search_runs(ids) if "mlflow.parentRunId" in run.data.tags]


@pytest.mark.slow
@linux_only
@pytest.mark.timeout(1_200)
def test_flow_killed_and_then_terminated_ends_as_if_nothing_had_happened(tmp_path: Path):
    home = Home(tmp_path, from_nothing=True)
    settings = {"processes": 2, "steps": 120, "checkpoint_every_steps": 20, "log_every_steps": 2}
    settings = {f"train__{name}": value for name, value in settings.items()}
    with running_flow(home, "pretrain", **settings) as flow:
        config = reach(home, 30, flow)
        plain = TrainRun.load(config)
        members = list(processes_of(config).values())
        assert len(members) == 3
        flow.kill()
        flow.wait()
        psutil.wait_procs(members, timeout=60)  # torchrun saves first
        assert processes_of(config) == {}
    saved = last_step(work_of(plain).path / EVENTS_NAME)
    with running_flow(home, "pretrain", **settings) as flow:
        config = reach(home, saved + 20, flow)
        flow.terminate()
        assert flow.wait() == 128 + signal.SIGTERM
        assert processes_of(config) == {}
        # Nor is a server left; workers of a pool look once a second whether their flow is there.
        assert psutil.wait_procs(group_members(flow.pid), timeout=20)[1] == []
    (run,) = training_runs(home)
    assert run.info.status == "KILLED"
    done = run_flow(home, "pretrain", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert starts(plain) == ["start", "resume", "resume"]

    (again,) = training_runs(home)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    points = MlflowClient(home.mlflow_uri).get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == [1, *range(2, 121, 2)]

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(home.data, elsewhere, ignore=shutil.ignore_patterns("train_model"))
    calm = plain.model_copy(update={"data_root": str(elsewhere), "tracking": TrackingConfig()})
    train_here(calm)
    assert weights(calm) == weights(plain)
    assert losses(calm) == losses(plain)


def test_settled_result_is_rank_0s_word_or_that_of_one_that_gave_up(tmp_path: Path):
    echo = ErrorReport(type="RuntimeError", problem="Connection closed by peer")
    found = ErrorReport(type="SourceError", problem="a shard is gone", is_lasting=True)
    assert settled_result(tmp_path) is None
    TrainResult(state="failed", error=echo, launch="a").write(tmp_path)
    assert settled_result(tmp_path) is None
    TrainResult(state="failed", error=found, launch="a").write(tmp_path, rank=1)
    settled = settled_result(tmp_path)
    assert settled is not None
    assert settled.error == found
    assert settled_result(tmp_path, launch="b") is None
    TrainResult(state="interrupted", step=7, launch="b").write(tmp_path)
    assert settled_result(tmp_path, launch="b") == settled_result(tmp_path)
