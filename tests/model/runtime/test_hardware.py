"""Threads, precision and peaks."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator

import pytest
import torch

from model.runtime.distributed import DistributedContext
from model.runtime.hardware import (
    compute_dtype,
    manual_garbage_collection,
    peak_flops_per_second,
    prepare_memory,
    share_threads,
)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce GT 710", None),
        ("cpu", None),
    ],
)
def test_peak_flops_per_second_by_name(name: str, tflops: float | None):
    assert peak_flops_per_second(name) == (None if tflops is None else tflops * 1e12)


@pytest.mark.parametrize(
    ("capabilities", "auto"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_compute_dtype_on_a_cpu_follows_the_config_then_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], auto: torch.dtype
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    cpu = torch.device("cpu")
    found = [compute_dtype(precision, cpu) for precision in ("auto", "float32", "bfloat16")]
    assert found == [auto, torch.float32, torch.bfloat16]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_share_threads_divides_the_cores_among_local_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's own
    assert share_threads(DistributedContext(size=8, local_size=2)) == 3
    assert share_threads(DistributedContext(size=8, local_size=8)) == 1


@pytest.mark.usefixtures("threads")
def test_share_threads_of_a_lone_process_keeps_to_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert share_threads(DistributedContext()) == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert share_threads(DistributedContext()) == 6


class _Ring:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_manual_garbage_collection_leaves_garbage_until_asked():
    with manual_garbage_collection():
        ring = weakref.ref(_Ring())
        many = [[] for _ in range(100_000)]  # would set off a collection
        assert ring() is not None
        gc.collect()
        assert ring() is None
        assert many
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "expandable_segments:True"), ({"PYTORCH_CUDA_ALLOC_CONF": "x"}, None)],
)
def test_prepare_memory_of_a_gpu_leaves_the_users_setting(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
):
    environment = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    monkeypatch.setattr("os.environ", environment | given)
    prepare_memory(torch.device("cuda"))
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected
