"""Stage measure_speed: tokens per second of a training on this machine, before it has a horizon.

Not part of a walk over the DAG: the horizon it gives is part of the keys that a walk derives. The
measurement is kept, so that the same budget buys the same horizon the next time.
"""

from __future__ import annotations

import logging
import platform
import socket
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from model.config.network import ModelConfig
from model.config.runs import MeasureRun, Speed
from model.config.train import TrainConfig
from model.core.artifact import Manifest
from model.core.config import Config
from model.core.outputs import Counts, OutputFile, Outputs
from model.core.processes import num_cores
from model.core.store import ArtifactStore, Work
from tasks.engine.child import Child
from tasks.engine.launchers import local_arguments, num_gpus, num_processes
from tasks.engine.stage import Call, ResourceShare, Stage

try:
    import pynvml
except ImportError:  # installed on Linux only
    pynvml = None

logger = logging.getLogger(__name__)

STEP_VERSION = 1
# Fields of a training that decide how fast it is; its rates and horizon do not.
TIMED_FIELDS = {
    "attention",
    "batch_tokens_per_step",
    "compile",
    "micro_batch_rows",
    "optimizer",
    "precision",
}


class MeasureSpeedOutputs(Outputs[Counts, Speed], stage="measure_speed"):
    """A measured speed."""

    speed = OutputFile("speed.json")  # the measurement, as JSON


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


class MeasureSpeed(Config):
    """What is measured, where."""

    model: ModelConfig
    train: TrainConfig
    vocab_size: int
    machine: Machine

    def semantic(self) -> dict[str, Any]:
        """Return what decides the speed, on which machine and under which torch."""
        return super().semantic() | {
            "train": self.train.model_dump(mode="json", include=TIMED_FIELDS),
            "torch": version("torch"),
        }


def build(work: Work, config: MeasureSpeed, share: ResourceShare) -> None:  # noqa: ARG001
    """Run the measuring process to its end and keep what it found."""
    destination = MeasureSpeedOutputs(work.path).speed
    run = MeasureRun(
        model=config.model,
        train=config.train,
        vocab_size=config.vocab_size,
        destination=str(destination),
    )
    Child(work, run).run("model.train.measure_speed", launcher=local_arguments(config.train))
    speed = Speed.model_validate_json(destination.read_bytes())
    MeasureSpeedOutputs.record(work, facts=speed)


measure_speed = Stage(MeasureSpeedOutputs, version=STEP_VERSION, build=build, scope="corpus")


def known_speed(config: MeasureSpeed, store: ArtifactStore) -> Speed | None:
    """Return what was measured before on this machine, ``None`` if nothing was."""
    manifest = speed_manifest(config, store)
    return MeasureSpeedOutputs.facts_of(manifest) if manifest else None


def speed_manifest(config: MeasureSpeed, store: ArtifactStore) -> Manifest | None:
    """Return the record of a measurement, ``None`` if there is none."""
    derivation = measure_speed.derive(config.model.size, config=config, inputs={})
    return store.status(derivation).manifest


def measured_speed(config: MeasureSpeed, store: ArtifactStore) -> Speed:
    """Return the speed of a training on this machine; measured now unless it was before.

    Called from the flow's main thread, before its walk: the task is run here.

    Raises:
        ChildError: the measuring process failed; a training would have, too.
    """
    derivation = measure_speed.derive(config.model.size, config=config, inputs={})
    share = ResourceShare(threads=num_cores(), memory_bytes=0)
    call = Call(measure_speed, derivation, config, share, store.root)
    state = measure_speed.prefect_task(call, return_state=True)
    state.result(raise_on_failure=True)
    speed = known_speed(config, store)
    assert speed
    logger.info("%s trains at %.0f tokens/s here", config.model.size, speed.tokens_per_second)
    return speed


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
