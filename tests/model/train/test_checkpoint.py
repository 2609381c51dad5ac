"""Checkpoints: exact round trip, retention, damaged files and full disks."""

from __future__ import annotations

import errno
import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from model.core.errors import CheckpointError, DiskSpaceError
from model.network.gpt import GPT
from model.network.losses import next_token_loss
from model.network.weights import load_model
from model.optim.optimizer import Optimizer, build_optimizer
from model.runtime.distributed import DistributedContext
from model.train.checkpoint import Checkpoints, CheckpointWriter, Seal
from model.train.loader import LoaderState
from model.train.snapshot import LoopState, Snapshot, join_tensors, split_tensors
from tests.support.small_disk import small_disk
from tests.support.small_model import random_ids, random_model, resolved

KEY = "a" * 64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny matrices make a busy machine crawl."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_steps(model: GPT, optimizer: Optimizer, *, seeds: range) -> None:
    for seed in seeds:
        ids = random_ids(2, 9, seed=seed)
        next_token_loss(model, ids, torch.ones_like(ids, dtype=torch.bool)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def trained(num_steps: int = 3) -> tuple[GPT, Optimizer]:
    model = random_model()
    optimizer = build_optimizer(model, resolved(model), DistributedContext())
    take_steps(model, optimizer, seeds=range(num_steps))
    return model, optimizer


def loop_at(step: int) -> LoopState:
    loader = LoaderState(fingerprint="f", num_rows=4 * step, part_rows=(3 * step, step))
    return LoopState(loader=loader, step=step, tokens=64 * step, best_validation_loss=4.5)


def save_steps(directory: Path, *steps: int, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(directory, derivation_key=KEY, keep=keep)
    model, optimizer = trained()
    for step in steps:
        checkpoints.write(Snapshot.take(model, optimizer, loop_at(step), num_processes=1))
    return checkpoints


def test_load_of_a_checkpoint_continues_bit_for_bit(tmp_path: Path):
    model, optimizer = trained()
    checkpoints = Checkpoints(tmp_path, derivation_key=KEY, keep=1)
    checkpoints.write(Snapshot.take(model, optimizer, loop_at(3), num_processes=1))
    take_steps(model, optimizer, seeds=range(10, 13))

    resumed = random_model(seed=9)
    resumed_optimizer = build_optimizer(resumed, resolved(resumed), DistributedContext())
    loop = checkpoints.load(3, resumed, resumed_optimizer)
    take_steps(resumed, resumed_optimizer, seeds=range(10, 13))

    assert loop == loop_at(3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_load_puts_random_generators_back(tmp_path: Path):
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    checkpoints = save_steps(tmp_path, 1)
    torch.manual_seed(7)  # making the model above drew numbers
    model, optimizer = trained()
    torch.manual_seed(7)
    checkpoints.write(Snapshot.take(model, optimizer, loop_at(1), num_processes=1))
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    checkpoints.load(1, model, optimizer)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_checkpoint_directory_loads_as_a_model(tmp_path: Path):
    checkpoints = save_steps(tmp_path, 1)
    expected, _ = trained()
    found = load_model(checkpoints.path(1))
    assert all(map(torch.equal, found.parameters(), expected.parameters()))


def test_split_tensors_of_torchs_own_optimizer_joins_again():
    model = random_model()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = random_ids(2, 9)
    next_token_loss(model, ids, torch.ones_like(ids, dtype=torch.bool)).backward()
    optimizer.step()
    tensors, rest = split_tensors(optimizer.state_dict())
    assert "3.exp_avg" in tensors
    joined = join_tensors(tensors, rest)
    torch.testing.assert_close(joined["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
    assert joined["param_groups"] == optimizer.state_dict()["param_groups"]


def test_save_keeps_the_newest(tmp_path: Path):
    checkpoints = save_steps(tmp_path, 10, 20, 30, 40, keep=2)
    assert checkpoints.steps() == [30, 40]
    assert checkpoints.newest() == 40


def test_newest_of_an_empty_directory_is_none(tmp_path: Path):
    assert Checkpoints(tmp_path / "none", derivation_key=KEY, keep=2).newest() is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "checkpoint.json"]
)
def test_newest_skips_a_checkpoint_with_a_flipped_byte(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
):
    checkpoints = save_steps(tmp_path, 10, 20)
    path = checkpoints.path(20) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest() == 10
    assert f"{checkpoints.path(20)} is damaged ({name}" in caplog.text
    assert "falling back" in caplog.text


def test_newest_skips_a_checkpoint_with_a_missing_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    checkpoints = save_steps(tmp_path, 10, 20)
    (checkpoints.path(20) / "optimizer.safetensors").unlink()
    assert checkpoints.newest() == 10
    assert "optimizer.safetensors is missing" in caplog.text


def test_newest_ignores_and_removes_what_a_killed_save_left(tmp_path: Path):
    checkpoints = save_steps(tmp_path, 10)
    leftover = tmp_path / "step-00000020.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest() == 10
    assert not leftover.exists()


def test_newest_of_another_training_is_refused_naming_both(tmp_path: Path):
    save_steps(tmp_path, 10)
    other = Checkpoints(tmp_path, derivation_key="b" * 64, keep=3)
    with pytest.raises(CheckpointError, match="another training") as error:
        other.newest()
    assert KEY in str(error.value)
    assert "b" * 64 in str(error.value)


def test_load_into_another_optimizer_is_refused(tmp_path: Path):
    checkpoints = save_steps(tmp_path, 10)
    model = random_model()
    with pytest.raises(CheckpointError, match="does not fit") as error:
        checkpoints.load(10, model, torch.optim.SGD(model.parameters()))
    assert "step-00000010" in str(error.value.where)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # As safetensors 0.8 words a full disk; tried on a full tmpfs.
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_save_on_a_full_disk_names_it_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
):
    checkpoints = save_steps(tmp_path, 10)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("model.train.checkpoint.save_file", fail)
    model, optimizer = trained()
    with pytest.raises(DiskSpaceError, match="while a checkpoint was written") as error:
        checkpoints.write(Snapshot.take(model, optimizer, loop_at(20), num_processes=1))
    assert "bytes free" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert checkpoints.newest() == 10


def test_save_keeps_the_best_and_the_last_flat_one(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, derivation_key=KEY, keep=1, flat_steps=25)
    model, optimizer = trained()
    losses = {10: 4.0, 20: 3.0, 30: 2.0, 40: 2.5, 50: 2.5, 60: 2.5}
    for step, loss in losses.items():
        checkpoints.write(Snapshot.take(model, optimizer, loop_at(step), num_processes=1))
        checkpoints.mark_validated(step, loss=loss)
    assert checkpoints.steps() == [20, 30, 60]
    assert (checkpoints.pre_decay(), checkpoints.best(), checkpoints.newest()) == (20, 30, 60)


def test_take_over_seals_a_copy_that_says_where_it_is_from(tmp_path: Path):
    save_steps(tmp_path / "first", 10)
    other = Checkpoints(tmp_path / "second", derivation_key="b" * 64, keep=2)
    other.take_over(tmp_path / "first" / "step-00000010", step=10)
    assert other.newest() == 10
    seal = Seal.model_validate_json((other.path(10) / "checkpoint.json").read_bytes())
    assert (seal.derivation_key, seal.taken_from) == ("b" * 64, KEY)
    third = Checkpoints(tmp_path / "third", derivation_key="c" * 64, keep=2)
    third.take_over(other.path(10), step=10)
    seal = Seal.model_validate_json((third.path(10) / "checkpoint.json").read_bytes())
    assert seal.taken_from == KEY


def test_take_over_of_a_damaged_checkpoint_is_refused(tmp_path: Path):
    save_steps(tmp_path / "first", 10)
    (tmp_path / "first" / "step-00000010" / "state.json").write_text("{}")
    other = Checkpoints(tmp_path / "second", derivation_key="b" * 64, keep=2)
    with pytest.raises(CheckpointError, match="damaged") as error:
        other.take_over(tmp_path / "first" / "step-00000010", step=10)
    assert "state.json holds other bytes" in str(error.value)
    assert other.newest() is None


def test_writer_writes_what_was_there_when_it_began(tmp_path: Path):
    model, optimizer = trained()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    reference, reference_optimizer = trained()
    take_steps(reference, reference_optimizer, seeds=range(10, 13))
    checkpoints = Checkpoints(tmp_path, derivation_key=KEY, keep=1)
    with CheckpointWriter(checkpoints) as writer:
        go_on = threading.Event()
        writer._pool.submit(go_on.wait)  # the thread is busy while training continues
        writer.begin(model, optimizer, loop_at(3), num_processes=1)
        take_steps(model, optimizer, seeds=range(10, 13))
        assert writer.finished() == []
        go_on.set()
        assert writer.wait() == [3]
        assert writer.wait() == []
    found = load_model(checkpoints.path(3)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    resumed = random_model(seed=9)
    resumed_optimizer = build_optimizer(resumed, resolved(resumed), DistributedContext())
    checkpoints.load(3, resumed, resumed_optimizer)
    take_steps(resumed, resumed_optimizer, seeds=range(10, 13))
    assert all(map(torch.equal, resumed.parameters(), reference.parameters()))


def test_writer_on_a_full_disk_says_so_when_asked_and_leaves_the_one_before(tmp_path: Path):
    model, optimizer = trained()
    measure = Checkpoints(tmp_path / "measure", derivation_key=KEY, keep=1)
    measured = measure.path(
        measure.write(Snapshot.take(model, optimizer, loop_at(1), num_processes=1))
    )
    num_bytes = sum(path.stat().st_size for path in measured.iterdir())
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk, num_bytes=int(1.6 * num_bytes) + 2**16):
        checkpoints = Checkpoints(disk, derivation_key=KEY, keep=3)
        with CheckpointWriter(checkpoints) as writer:
            writer.begin(model, optimizer, loop_at(10), num_processes=1)
            assert writer.wait() == [10]
            writer.begin(model, optimizer, loop_at(20), num_processes=1)
            with pytest.raises(DiskSpaceError, match="while a checkpoint was written"):
                writer.wait()
        assert [path.name for path in disk.iterdir()] == ["step-00000010"]
        assert checkpoints.newest() == 10


def save_and_fail(checkpoints: Checkpoints) -> None:
    model, optimizer = trained()
    with CheckpointWriter(checkpoints) as writer:
        writer.begin(model, optimizer, loop_at(3), num_processes=1)
        writer.mark_validated(3, loss=2.0)
        raise ValueError("of training")


def test_writer_left_by_an_error_finishes_its_checkpoint_first(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, derivation_key=KEY, keep=1)
    with pytest.raises(ValueError, match="of training"):
        save_and_fail(checkpoints)
    assert (checkpoints.newest(), checkpoints.best()) == (3, 3)


def test_writer_that_fails_while_training_fails_leaves_the_first_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("in the way of a directory")
    checkpoints = Checkpoints(tmp_path / "file", derivation_key=KEY, keep=1)
    with pytest.raises(ValueError, match="of training"):
        save_and_fail(checkpoints)
    assert "the last checkpoint was not written" in caplog.text
