"""The machine a stage runs on, as far as it decides how fast something is."""

from __future__ import annotations

import platform
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import Field

from model.config.train import TrainConfig
from model.core.config import Config
from model.core.processes import num_cores
from tasks.engine.launchers import num_gpus, num_processes

try:
    import pynvml
except ImportError:  # installed on Linux only
    pynvml = None


class Machine(Config):
    """Host, device and share of it: a measured speed holds for equal ones."""

    host: str
    device: str = Field(description="name of the first GPU, or of the processor")
    cores: int = Field(description="cores this process may run on")
    processes: int = Field(description="training processes")

    @classmethod
    def here(cls, train: TrainConfig) -> Self:
        """Return this machine as a training would use it."""
        return cls(
            host=socket.gethostname(),
            device=gpu_name() or processor_name(),
            cores=num_cores(),
            processes=num_processes(train),
        )


def gpu_name() -> str | None:
    """Return the name of this machine's first GPU, ``None`` where this process may use none."""
    if not num_gpus() or pynvml is None:
        return None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    return None


def processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
