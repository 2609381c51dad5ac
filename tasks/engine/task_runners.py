"""Task runners on several machines: Ray and Dask, each an optional extra.

Nobody has to install them, so they are imported here, by name, when a run asks for one; everything
else goes through Prefect's `TaskRunner`. Called by `tasks.engine.pipeline.task_runner`.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any, Literal

from prefect.task_runners import TaskRunner

from model.core.errors import ConfigError

Extra = Literal["ray", "dask"]

QUIET = {  # read when the packages are imported, here and in the workers
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "DASK_LOGGING__DISTRIBUTED": "warning",
}
RAY_OBJECT_STORE_BYTES = 128 * 2**20  # only calls and states pass through it; Ray wants 75 MiB


def extra_runner(extra: Extra, *, workers: int) -> TaskRunner[Any]:
    """Return a task runner on the cluster that the environment names, or on one of its own here.

    A cluster of its own lives as long as the runner and has so many worker processes. RAY_ADDRESS
    and DASK_SCHEDULER_ADDRESS name one that is there; its size is its own affair.

    Raises:
        ConfigError: the extra is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    package = _import(extra)
    if extra == "ray":
        return _ray_runner(package, workers=workers)
    return _dask_runner(package, workers=workers)


def _ray_runner(package: ModuleType, *, workers: int) -> TaskRunner[Any]:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return package.RayTaskRunner(address=address)
    own = {
        "num_cpus": workers,
        "object_store_memory": RAY_OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    # Without "local" Ray would join any cluster that somebody started on this machine.
    return package.RayTaskRunner(address="local", init_kwargs=own)


def _dask_runner(package: ModuleType, *, workers: int) -> TaskRunner[Any]:
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        return package.DaskTaskRunner(address=address)
    own = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": None,  # a stage keeps to its own share: Dask need not kill at another
        "dashboard_address": None,
    }
    return package.DaskTaskRunner(cluster_kwargs=own)


def _import(extra: Extra) -> ModuleType:
    name = f"prefect_{extra}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the task runner '{extra}' is not installed",
            expected=f"the optional extra '{extra}' of pyproject.toml",
            found=f"no package {error.name}",
            where="run.task_runner",
            fix="install it with `make extras`, or set run.task_runner=processes",
        ) from error
