"""Processes: places, agreement, signals, and not outliving a parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from model.distributed import StopRequest, World
from tests.small_training import ROOT


def test_world_from_an_empty_environment_is_alone(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    world = World.from_environment()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)


def test_world_from_torchruns_environment_takes_its_place(monkeypatch: pytest.MonkeyPatch):
    values = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert (world.rank, world.size, world.local_rank, world.local_size) == (5, 8, 1, 4)
    assert not world.is_main


def test_lone_world_answers_without_a_process_group():
    world = World()
    module = nn.Linear(2, 2)
    with world.process_group():
        assert not torch.distributed.is_initialized()
        assert world.sum(3) == 3
        assert world.from_main(7) == 7
        assert world.from_main(None) == 0
        assert [world.any(flag) for flag in (True, False)] == [True, False]
        assert world.wrap(module) is module


AGREE = """
import sys
from pathlib import Path
import torch
from model.distributed import World

world = World.from_environment()
if world.is_main:
    world.announce("train")
else:
    assert world.await_decision() == "train"
with world.process_group():
    answers = [
        world.sum(10 + world.rank),
        world.from_main(42 if world.is_main else 7),
        world.any(world.rank == 1),
        world.any(False),
        world.sum_tensor(torch.tensor([0.5, world.rank], dtype=torch.float64)).tolist(),
    ]
Path(sys.argv[1], f"rank-{world.rank}").write_text(repr(answers))
"""


def test_two_processes_agree(tmp_path: Path):
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)]
    assert answers == ["[21, 42, True, False, [1.0, 1.0]]"] * 2


def test_stop_request_notes_a_signal_and_gives_the_handler_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) == before  # not before it listens
        stop.listen()
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) == before


CHILD = """
import sys, time
from model.distributed import die_with_parent
die_with_parent()
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=sys.stdin)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills orphans")
def test_die_with_parent_ends_the_child_of_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert parent.stdin
    assert parent.stdout
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == ""  # ends only when the child, too, has let go of the pipe
