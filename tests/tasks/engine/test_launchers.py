"""Launchers: processes that they start, and the commands for other machines."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.config.network import ModelConfig
from model.config.train import TrainConfig, check_machines, rows_per_step
from model.core.errors import ConfigError
from tasks.engine.child import Child
from tasks.engine.launchers import (
    LocalTorchrun,
    OneProcess,
    Rendezvous,
    choose_launcher,
    num_gpus,
    others_text,
)
from tests.support.launched_training import kill, losses, processes_of, starts, train_here, weights
from tests.support.servers import free_port
from tests.support.small_training import ROOT, make_data_root, small_run

CONFIG = Path("/shared/data/train_model/.launch/base-20261122-7/config.json")


def test_choose_launcher_takes_the_simplest_that_does():
    config = TrainConfig(steps=1, processes=1)
    assert isinstance(choose_launcher(config), OneProcess)
    assert isinstance(choose_launcher(TrainConfig(steps=1, processes=2)), LocalTorchrun)
    by_cores = TrainConfig(steps=1, cpu_processes=2)
    assert isinstance(choose_launcher(by_cores), OneProcess if num_gpus() == 1 else LocalTorchrun)
    several = TrainConfig(steps=1, processes=1, nodes=2, rendezvous="node-0:29400")
    assert isinstance(choose_launcher(several), Rendezvous)


@pytest.mark.parametrize("rendezvous", [None, "node-0", ":29400", "node-0:port"])
def test_several_machines_without_a_place_to_meet_are_refused(rendezvous: str | None):
    with pytest.raises(ConfigError, match=r"(?s)address to meet at.*such as node-0:29400"):
        check_machines(TrainConfig(steps=1, nodes=2, rendezvous=rendezvous))


def test_rows_must_spread_over_the_processes_of_all_machines():
    model = ModelConfig(size="1m", context_tokens=16)
    train = TrainConfig(steps=1, processes=2, batch_tokens_per_step=64)
    assert rows_per_step(train, model) == 4
    four = train.model_copy(update={"nodes": 4})
    with pytest.raises(ConfigError, match=r"4 rows and 2 processes on each of 4 machines"):
        rows_per_step(four, model)


def test_others_text_is_a_command_that_torchrun_and_the_training_understand():
    train = TrainConfig(steps=1, processes=4, nodes=3, rendezvous="node-0:29400", max_restarts=5)
    text = others_text(train, CONFIG)
    assert "2 more of 3 machines" in text
    for words in ("data root on storage they all share", "same path", "MLflow's address"):
        assert words in text
    command = command_for_others(train, CONFIG)
    assert command[-4:] == ["-m", "model.train", "--config", str(CONFIG)]


def command_for_others(train: TrainConfig, config: Path) -> list[str]:
    """Return the words of the command that the text shows, as a shell reads them."""
    (line,) = (line for line in others_text(train, config).splitlines() if line.startswith("    "))
    words = shlex.split(line)
    assert words[:3] == ["cd", str(ROOT), "&&"]
    return words[3:]


class OtherMachine:
    """A second agent on loopback, started by the command that the launcher shows."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def join(self, child: Child) -> None:
        text = (child.directory / "other-machines.txt").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("    cd "))
        with (child.directory / "other.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"{line.replace(' env ', ' exec env ')}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@pytest.fixture
def other() -> Iterator[OtherMachine]:
    machine = OtherMachine()
    yield machine
    if machine.process:
        machine.process.kill()
        machine.process.wait()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_root(tmp_path_factory.mktemp("data"))


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("tasks.engine.child.POLL_SECONDS", 0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_look")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills orphans")
def test_two_agents_train_what_one_agent_with_two_processes_trains(root: Path, other: OtherMachine):
    many = {"steps": 60, "checkpoint_every_steps": 5, "validate_every_steps": 30}
    one = small_run(root, name="one-agent", train={**many, "processes": 2})
    train_here(one)
    place = {"processes": 1, "nodes": 2, "rendezvous": f"127.0.0.1:{free_port()}"}
    two = small_run(root, name="two-agents", train=many | place)
    configs: list[Path] = []

    def join(child: Child) -> None:
        configs.append(child.config)
        other.join(child)

    train_here(two, (0, join), (10, kill("1")))
    assert other.process
    assert other.process.wait() == 0
    assert starts(two) == ["start", "resume"]
    assert weights(two) == weights(one)
    assert losses(two) == losses(one)
    assert processes_of(configs[0]) == {}
