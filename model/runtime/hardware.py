"""Hardware settings of training: threads, precision, memory, garbage collection, throughput."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator

import torch

from model.config.train import Precision
from model.core.errors import ConfigError
from model.core.processes import num_cores
from model.runtime.distributed import DistributedContext

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
CUDA_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # new, old name
# Dense bf16 TFLOP/s without sparsity, from NVIDIA's data sheets; the longest name that fits counts.
PEAK_TFLOPS = {
    "A100": 312.0,
    "H100": 989.4,  # SXM
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200": 989.4,
    "B200": 2250.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
}


def peak_flops_per_second(device_name: str) -> float | None:
    """Return a GPU's dense bf16 peak, or ``None`` for unknown hardware.

    Example:
        >>> peak_flops_per_second("NVIDIA H100 80GB HBM3")
        989400000000000.0
    """
    fitting = [name for name in PEAK_TFLOPS if name.lower() in device_name.lower()]
    return PEAK_TFLOPS[max(fitting, key=len)] * 1e12 if fitting else None


def device_name(device: torch.device) -> str:
    """Return the name of a device for records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    Raises:
        ConfigError: bfloat16 is requested and the GPU lacks it.
    """
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bfloat16" and not able:
            raise ConfigError(
                "the GPU has no bfloat16",
                expected="compute capability 8.0 or later",
                found=device_name(device),
                where="train.precision",
                fix="set train.precision to auto or float32",
            )
        return torch.bfloat16 if able else torch.float32
    is_chosen = precision == "bfloat16" or _multiplies_bfloat16()
    return torch.bfloat16 if is_chosen else torch.float32


def _multiplies_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions; without them it is many times slower.

    With them a step takes 0.84 (1m) and 0.62 (10m) of its fp32 CPU time: EPYC with avx512_bf16,
    torch 2.13, one thread, 2026-11-22.
    """
    found = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 may lack it: then fp32
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def share_threads(distributed: DistributedContext) -> int:
    """Set torch's threads to this process's share of the usable cores, and return their number.

    A lone process respects ``OMP_NUM_THREADS``; torchrun sets it to 1 itself.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "") if distributed.local_size == 1 else ""
    num_threads = int(wanted) if wanted.isdigit() else num_cores() // distributed.local_size
    torch.set_num_threads(max(1, num_threads))
    return torch.get_num_threads()


def prepare_memory(device: torch.device) -> None:
    """Configure the allocators; call it before the first tensor on a GPU.

    CUDA gets expandable segments, which avoid fragmentation, unless the environment configures its
    allocator. Their effect has not been measured on a GPU.
    """
    if device.type == "cpu":
        keep_freed_memory()
    elif not any(name in os.environ for name in CUDA_ALLOCATOR_VARIABLES):
        os.environ[CUDA_ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def keep_freed_memory() -> bool:
    """Configure glibc to keep freed memory for the next tensor; return whether it does.

    By default glibc returns every large block to the kernel, so that each tensor of some megabytes
    faults in new pages: a bf16 product of [2048, 384] and [384, 1152] took 1.27 times as long
    (EPYC, torch 2.13, one thread, 2026-11-22). Only glibc on Linux has the call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextlib.contextmanager
def manual_garbage_collection() -> Iterator[None]:
    """Disable automatic garbage collection; ``gc.collect`` still works.

    Existing objects are frozen. A collection within a step of one process delays all processes of a
    training, and each collects at another time.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


class ThroughputMeter:
    """Tokens per second of training, without checkpoints and validation."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, tokens: int) -> None:
        """Start measuring from here."""
        self._tokens, self._time = tokens, time.perf_counter()

    def lap(self, tokens: int) -> float:
        """Return the throughput since the last lap or restart, and start again."""
        num_tokens, seconds = tokens - self._tokens, time.perf_counter() - self._time
        self.restart(tokens)
        return num_tokens / seconds
