"""Register all deployments with the Prefect server that is configured: ``make deploy``.

The local stack and the container stack do it with this module when they start.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prefect.settings import get_current_settings

from deployments.server_calls import answers
from model.core.errors import ConfigError, LLMError

PROJECT = Path(__file__).resolve().parent.parent
DEPLOYMENTS = "deployments/prefect.yaml"
POOL = "local"


def deploy() -> None:
    """Create the work pool if it is missing, and register all deployments of the file.

    Raises:
        ConfigError: no Prefect server answers.
        subprocess.CalledProcessError: Prefect failed and printed why.
    """
    url = get_current_settings().api.url
    if not (url and answers(f"{url}/health")):
        raise ConfigError(
            "no Prefect server answers",
            expected="a running server",
            found="none",
            where=f"PREFECT_API_URL={url}",
            fix="start one with `make local`, or set PREFECT_API_URL",
        )
    if not answers(f"{url}/work_pools/{POOL}"):
        _prefect("work-pool", "create", POOL, "--type", "process")
    _prefect("deploy", "--all", "--prefect-file", DEPLOYMENTS)


def _prefect(*arguments: str) -> None:
    # Deployments remember the directory they were made in: it must be the project's.
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    subprocess.run(command, cwd=PROJECT, check=True)


if __name__ == "__main__":
    try:
        deploy()
    except LLMError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
