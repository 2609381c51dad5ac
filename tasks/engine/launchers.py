"""Launchers of a training: one process, several on this machine, or several machines.

A launcher runs the training of one launch directory to its end; the stage only watches. So far:

    OneProcess   python -m model.train; started again after a kill
    LocalTorchrun   one torchrun agent and its processes on this machine
    Rendezvous   one agent here and one on each other machine; the command for those is shown

The contract of all: the config, the log of this machine and ``result.json`` lie in the
launch directory, the artifact in the store. What runs elsewhere, such as a job of a cluster, fits
behind it by watching those two.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from httpx import HTTPError
from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException

from model.config.train import TrainConfig, check_machines
from model.core.errors import ChildKilledError
from tasks.engine.child import Child
from tasks.engine.pipeline import project_root

try:
    import pynvml
except ImportError:  # installed on Linux only
    pynvml = None

logger = logging.getLogger(__name__)

MODULE = "model.train"
TORCHRUN = ("-m", "torch.distributed.run")
SHUTDOWN_SECONDS = 20  # torchrun kills its processes this long after it asked them to stop
JOIN_SECONDS = 1800  # how long machines wait for each other, to begin and after a death
COMMANDS_NAME = "other-machines.txt"
# Each attempt gets a store of its own, which its rank 0 opens: agents count restarts apart, so no
# number of theirs identifies an attempt on all machines.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

Watch = Callable[[], None]


class Launcher(Protocol):
    """Runs a training to its end, however its processes are started."""

    def run(self, child: Child, *, watch: Watch) -> None:
        """Train as the child's config says.

        Args:
            watch: called about twice a second until training ends.

        Raises:
            ChildInterruptedError: training stopped on request and saved its work.
            ChildError: it failed, also after the restarts it is allowed.
        """
        ...


def choose_launcher(train: TrainConfig) -> Launcher:
    """Return the launcher for as many machines and processes as asked.

    Raises:
        ConfigError: there are several machines and no address to meet at.
    """
    check_machines(train)
    if train.nodes > 1:
        return Rendezvous(train)
    if num_processes(train) > 1:
        return LocalTorchrun(train)
    return OneProcess(train)


@dataclass(frozen=True)
class OneProcess:
    """A lone process: no agent, nothing to agree on."""

    train: TrainConfig

    def run(self, child: Child, *, watch: Watch) -> None:
        """Train; start again after a kill."""
        _run_again_if_killed(child, (), watch=watch, max_restarts=self.train.max_restarts)


@dataclass(frozen=True)
class LocalTorchrun:
    """Several processes of this machine."""

    train: TrainConfig

    def run(self, child: Child, *, watch: Watch) -> None:
        """Train; torchrun starts all again when one died, and is started again after a kill."""
        arguments = local_arguments(self.train)
        _run_again_if_killed(child, arguments, watch=watch, max_restarts=self.train.max_restarts)


@dataclass(frozen=True)
class Rendezvous:
    """Several machines: each runs one torchrun agent, this one lets them meet."""

    train: TrainConfig

    def run(self, child: Child, *, watch: Watch) -> None:
        """Show what to start on the other machines, and train with them."""
        text = others_text(self.train, child.config)
        (child.directory / COMMANDS_NAME).write_text(text)
        logger.info("%s", text)
        _show_in_prefect(text)
        arguments = self.arguments(child.config, is_host=True)
        child.run(MODULE, launcher=arguments, environment=OWN_STORE, watch=watch)

    def arguments(self, config: Path, *, is_host: bool) -> tuple[str, ...]:
        """Return the interpreter arguments of the agent on this machine, or on another."""
        return (
            *TORCHRUN,
            f"--nnodes={self.train.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.train.rendezvous}",
            f"--rdzv-id={config.parent.name}",
            f"--rdzv-conf=is_host={int(is_host)},join_timeout={JOIN_SECONDS}",
            *([f"--local-addr={self.host}"] if is_host else []),  # the name the others know
            *torchrun_flags(self.train),
        )

    @property
    def host(self) -> str:
        """The name of this machine."""
        return (self.train.rendezvous or "").rpartition(":")[0]


def others_text(train: TrainConfig, config: Path) -> str:
    """Return what a person has to know and run on each of the other machines."""
    words = (sys.executable, *Rendezvous(train).arguments(config, is_host=False))
    variables = [f"{name}={value}" for name, value in OWN_STORE.items()]
    command = shlex.join(["env", *variables, *words, "-m", MODULE, "--config", str(config)])
    return (
        f"{train.nodes - 1} more of {train.nodes} machines must join within "
        f"{JOIN_SECONDS // 60} minutes; on each of them run\n\n"
        f"    cd {shlex.quote(str(project_root()))} && {command}\n\n"
        "Each needs this project and its environment under the same path, and the data root on "
        "storage they all share, under the same path, with working file locks. The process that "
        "reports to MLflow may run on any of them: give MLflow's address, not a file. After a "
        "machine was lost, the same command joins again."
    )


def local_arguments(train: TrainConfig) -> tuple[str, ...]:
    """Return the interpreter arguments of the processes of this machine; none for a lone one."""
    if num_processes(train) == 1:
        return ()
    return (*TORCHRUN, "--standalone", *torchrun_flags(train))


def torchrun_flags(train: TrainConfig) -> tuple[str, ...]:
    """Return torchrun's arguments that are the same on one machine and on several."""
    flags = [
        f"--nproc-per-node={num_processes(train)}",
        f"--max-restarts={train.max_restarts}",
    ]
    major, minor = (int(part) for part in version("torch").split(".")[:2])
    if (major, minor) >= (2, 12):  # the flag is that new
        flags.append(f"--shutdown-timeout={SHUTDOWN_SECONDS}")
    return tuple(flags)


def _run_again_if_killed(
    child: Child, launcher: tuple[str, ...], *, watch: Watch, max_restarts: int
) -> None:
    """Run a training and, if its first process dies of a signal, run it again.

    The other processes of the killed attempt die with it; until they have, the lock of the
    artifact keeps the next attempt waiting.
    """
    for restarts_left in reversed(range(max_restarts + 1)):
        try:
            child.run(MODULE, launcher=launcher, watch=watch)
        except ChildKilledError as error:
            if not restarts_left:
                raise
            logger.warning("%s; resuming from the newest checkpoint", error.problem)
        else:
            return


def _show_in_prefect(text: str) -> None:
    if not TaskRunContext.get():
        return
    try:
        create_markdown_artifact(text, key="other-machines", description="how they join")
    except (PrefectException, HTTPError) as error:  # a display never ends a training
        logger.warning("Prefect does not show the command for other machines: %s", error)


def num_processes(train: TrainConfig) -> int:
    """Return the training processes of this machine: as asked, else one per visible GPU."""
    return train.processes or num_gpus() or train.cpu_processes


def num_gpus() -> int:
    """Return the number of GPUs this process may use; 0 without NVIDIA's driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if pynvml is None:
        return 0
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlDeviceGetCount()
        finally:
            pynvml.nvmlShutdown()
    return 0
