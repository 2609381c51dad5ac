"""The smoke run: what fails in it, and that nothing of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.config.runs import TrainRun
from model.runtime.distributed import DistributedContext, StopRequest
from model.text.tokenizer import Tokenizer
from model.train.events import read_events
from model.train.smoke_run import planned_seconds
from model.train.trainer import Trainer, TrainingInterruptedError, train
from tests.support.small_training import make_data_root, saved_weights, small_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


def train_here(run: TrainRun, directory: Path, stop: StopRequest | None = None) -> None:
    directory.mkdir()
    with stop or StopRequest() as request:
        train(run, directory=directory, distributed=DistributedContext(), stop=request)


def kinds(directory: Path) -> list[str]:
    return [event["kind"] for event in read_events(directory / "events.jsonl")]


def test_train_after_a_smoke_run_ends_as_without_one(root: Path, tmp_path: Path):
    for choice in ("always", "never"):
        run = small_run(root, train={"steps": 4, "smoke_run": choice}, sample_prompts=("The",))
        train_here(run, tmp_path / choice)
    assert saved_weights(tmp_path / "always") == saved_weights(tmp_path / "never")
    assert sorted(kinds(tmp_path / "always")) == sorted(["smoke_run", *kinds(tmp_path / "never")])
    names = [
        {path.relative_to(tmp_path / choice).as_posix() for path in (tmp_path / choice).rglob("*")}
        for choice in ("always", "never")
    ]
    assert names[0] == names[1]


def test_smoke_run_that_fails_ends_the_training_before_its_first_step(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("a validation that would have failed hours later")

    monkeypatch.setattr("model.train.objectives.evaluate", fail)
    run = small_run(root, train={"steps": 50, "smoke_run": "always"})
    with pytest.raises(RuntimeError, match="hours later") as error:
        train_here(run, tmp_path / "run")
    assert error.value.__notes__ == ["in the smoke run before 50 steps of training"]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(("long_seconds", "expected"), [(0.0, True), (3600.0, False)])
def test_smoke_run_by_itself_comes_before_long_trainings_only(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    long_seconds: float,
    expected: bool,
):
    monkeypatch.setattr("model.train.smoke_run.LONG_SECONDS", long_seconds - 1.0)
    train_here(small_run(root, train={"steps": 1}), tmp_path / "run")
    assert ("smoke_run" in kinds(tmp_path / "run")) is expected


def test_smoke_run_is_left_out_when_training_resumes(root: Path, tmp_path: Path):
    run = small_run(root, train={"steps": 4, "smoke_run": "never"})
    train_here(run, tmp_path / "run")
    again = small_run(root, train={"steps": 4, "smoke_run": "always"})
    with StopRequest() as stop:
        train(again, directory=tmp_path / "run", distributed=DistributedContext(), stop=stop)
    assert "smoke_run" not in kinds(tmp_path / "run")


def test_smoke_run_asked_to_stop_interrupts_the_training_at_its_beginning(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    take_step = Trainer.step

    def stopping(trainer: Trainer, batch: Any) -> Any:
        trainer.stop.is_set = True
        return take_step(trainer, batch)

    monkeypatch.setattr(Trainer, "step", stopping)
    run = small_run(root, train={"steps": 50, "smoke_run": "always"})
    with pytest.raises(TrainingInterruptedError) as interruption:
        train_here(run, tmp_path / "run")
    assert interruption.value.step == 0
    assert list((tmp_path / "run").iterdir()) == []


def test_planned_seconds_grow_with_the_horizon_and_shrink_with_the_processes(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("model.train.smoke_run.device_name", lambda _device: "NVIDIA H200")
    run = small_run(root, train={"steps": 1000})
    longer = small_run(root, train={"steps": 3000})
    one, three = (
        planned_seconds(run, DistributedContext()),
        planned_seconds(longer, DistributedContext()),
    )
    assert three == pytest.approx(3 * one)
    assert planned_seconds(run, DistributedContext(size=2)) == pytest.approx(one / 2)
    flops = (
        run.model.architecture(Tokenizer.load(root / "tokenizer").vocab_size).flops_per_token()
        * 64
        * 1000
    )
    assert one == pytest.approx(flops / (0.4 * 989.4e12))
