"""Processes: places, agreement, signals, and not outliving a parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model.runtime.distributed import DistributedContext, StopRequest
from tests.support.small_training import ROOT, make_data_root, small_run, write_config


def test_context_from_an_empty_environment_is_alone(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed = DistributedContext.from_environment()
    assert (distributed.rank, distributed.size, distributed.is_main) == (0, 1, True)


def test_context_from_torchruns_environment_takes_its_place(monkeypatch: pytest.MonkeyPatch):
    values = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    distributed = DistributedContext.from_environment()
    assert (distributed.rank, distributed.size, distributed.local_rank, distributed.local_size) == (
        5,
        8,
        1,
        4,
    )
    assert not distributed.is_main


def test_lone_process_answers_without_a_process_group():
    distributed = DistributedContext()
    module = nn.Linear(2, 2)
    with distributed.process_group():
        assert not torch.distributed.is_initialized()
        assert distributed.sum(3) == 3
        assert distributed.from_main(7) == 7
        assert distributed.from_main(None) == 0
        assert [distributed.any(flag) for flag in (True, False)] == [True, False]
        assert distributed.wrap(module) is module


AGREE = """
import sys
from pathlib import Path
import torch
from model.runtime.distributed import DistributedContext

distributed = DistributedContext.from_environment()
if distributed.is_main:
    distributed.announce("train")
else:
    assert distributed.await_decision() == "train"
with distributed.process_group():
    answers = [
        distributed.sum(10 + distributed.rank),
        distributed.from_main(42 if distributed.is_main else 7),
        distributed.any(distributed.rank == 1),
        distributed.any(False),
        distributed.sum_tensor(torch.tensor([0.5, distributed.rank], dtype=torch.float64)).tolist(),
    ]
Path(sys.argv[1], f"rank-{distributed.rank}").write_text(repr(answers))
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


COUNT = """
import sys
from collections import Counter
from pathlib import Path
import torch
import torch.distributed as dist
from model.runtime.distributed import StopRequest, DistributedContext
from model.config.runs import TrainRun
from model.train.trainer import train

buckets = []

def exchange(_state, bucket):
    buckets.append((bucket.index(), bucket.is_last()))
    done = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])

class CountingContext(DistributedContext):
    def wrap(self, module):
        wrapped = super().wrap(module)
        wrapped.register_comm_hook(None, exchange)
        return wrapped

torch.set_num_threads(1)
distributed = CountingContext.from_environment()
run = TrainRun.load(Path(sys.argv[1]))
directory = Path(sys.argv[2], f"rank-{distributed.rank}")
directory.mkdir(parents=True)
with torch.profiler.profile() as profile, StopRequest() as stop:
    train(run, directory=directory, distributed=distributed, stop=stop)
names = [event.name for event in profile.events() if event.name.startswith("gloo:")]
said = {"buckets": buckets, "collectives": Counter(names)}
Path(sys.argv[2], f"said-{distributed.rank}").write_text(repr(said))
distributed.leave(0)
"""


def collectives(directory: Path, *, micro_batch_rows: int) -> dict[str, Any]:
    """Train two processes and return their exchanges of buckets, and how often each collective."""
    run = small_run(directory / "data", train={"steps": 3, "micro_batch_rows": micro_batch_rows})
    here = directory / f"micro-{micro_batch_rows}"
    config = write_config(run, here)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = here / "count.py"
    script.write_text(COUNT)
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(config), str(here)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [(here / f"said-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    return eval(said[0], {"Counter": Counter})


@pytest.mark.slow
def test_accumulation_exchanges_each_bucket_once_a_step_and_nothing_more(tmp_path: Path):
    make_data_root(tmp_path / "data")
    at_once = collectives(tmp_path, micro_batch_rows=2)
    in_two = collectives(tmp_path, micro_batch_rows=1)
    assert in_two == at_once
    lasts = [index for index, is_last in in_two["buckets"] if is_last]
    assert len(lasts) == 3  # steps; after the first, DDP rebuilds its buckets
    assert lasts[1] > 0
    every = [index for last in lasts for index in range(last + 1)]
    assert [index for index, _ in in_two["buckets"]] == every


def test_stop_request_notes_a_signal_and_gives_the_handler_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGTERM) == before  # not before it listens
        stop.listen()
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) == before
