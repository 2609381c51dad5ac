"""Micro-batches: fewer rows at a time when memory is short, and the same training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.core.errors import TrainingError
from model.runtime.distributed import DistributedContext, StopRequest
from model.train.accumulation import is_out_of_memory
from model.train.events import read_events
from model.train.trainer import Trainer
from tests.support.small_training import ROOT, make_data_root, small_run, write_config

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 192
ROOM = str(120 * 2**20)  # all rows at once take about 220 MB
WITH_LITTLE_MEMORY = """
import resource, sys, threading
from pathlib import Path
from model.runtime.distributed import StopRequest, DistributedContext
from model.config.runs import TrainRun
from model.train.trainer import Trainer

run, directory, room = TrainRun.load(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
threading.stack_size(2**18)  # not eight megabytes of the room below
trainer = Trainer(run, directory=directory, distributed=DistributedContext(), stop=StopRequest())
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + room, held + room))
trainer.fit()
"""


def losses(directory: Path) -> list[float]:
    events = read_events(directory / "events.jsonl")
    return [event["train/loss"] for event in events if event["kind"] == "train"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_fit_with_little_memory_halves_the_micro_batch_and_trains_the_same(tmp_path: Path):
    root = make_data_root(tmp_path / "data")
    settings = {"steps": 2, "batch_tokens_per_step": ROWS * 16, "micro_batch_rows": 1000}
    run = small_run(root, train=settings)
    for name in ("little", "much"):
        (tmp_path / name).mkdir()
    config = write_config(run, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_MEMORY, str(config), str(tmp_path / "little"), ROOM],
        cwd=ROOT,
        # What is given back must leave the address space, or a thread may find no room to start.
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (event,) = [
        item
        for item in read_events(tmp_path / "little" / "events.jsonl")
        if item["kind"] == "micro_batch"
    ]
    assert event["rows"] in (ROWS // 8, ROWS // 4, ROWS // 2)
    assert f"micro-batches of {ROWS} rows do not fit" in event["message"]
    Trainer(
        run, directory=tmp_path / "much", distributed=DistributedContext(), stop=StopRequest()
    ).fit()
    assert losses(tmp_path / "little") == pytest.approx(losses(tmp_path / "much"), rel=1e-5)


def test_fit_resumed_begins_with_the_rows_that_fitted_before(tmp_path: Path):
    """The limit itself is not the same at the second start: the saved size is what counts."""
    root = make_data_root(tmp_path / "data", num_rows=20)
    run = small_run(root, train={"steps": 8, "micro_batch_rows": 4})
    tried: list[int] = []

    def trainer() -> Trainer:
        made = Trainer(
            run, directory=tmp_path, distributed=DistributedContext(), stop=StopRequest()
        )
        attempt = made.accumulator._try

        def failing(batch: object, optimizer: object) -> None:
            tried.append(made.accumulator.rows)
            if made.accumulator.rows > 1 and made.loop.step == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            attempt(batch, optimizer)  # pyright: ignore[reportArgumentType]

        made.accumulator._try = failing  # pyright: ignore[reportAttributeAccessIssue]
        return made

    trainer().fit()
    assert tried == [4, 2, 1]
    trainer().fit()
    assert tried == [4, 2, 1, 1]


def test_fit_into_memory_that_holds_no_row_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = make_data_root(tmp_path / "data", num_rows=20)
    run = small_run(root, train={"steps": 8})
    trainer = Trainer(run, directory=tmp_path, distributed=DistributedContext(), stop=StopRequest())

    def failing(*_args: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(trainer.accumulator, "_try", failing)
    with pytest.raises(TrainingError, match="one row does not fit"):
        trainer.fit()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_is_out_of_memory_knows_such_errors(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected
