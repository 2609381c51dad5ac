"""Description of the measuring machine, as the head of a results table."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from model.core.processes import num_cores
from model.core.store import git_commit, package_versions
from tasks.stages.measure_speed import processor_name


def describe() -> str:
    """Return command, date, commit, hardware and versions as one paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return (
        f"`python -m {' '.join([_module(), *sys.argv[1:]])}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"commit {(git_commit() or 'unknown')[:10]}, {num_cores()} cores of {processor_name()}, "
        f"{platform.system()}; {versions}"
    )


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"
