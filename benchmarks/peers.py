"""Runner of peer libraries, in an interpreter of their own, .venv/peers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

PYTHON = Path(".venv/peers/bin/python")
HERE = Path(__file__).parent


def run_peer(script: str, *arguments: object, python: Path = PYTHON) -> dict[str, Any]:
    """Run a script of this folder with the peers' interpreter, and return its last line as JSON."""
    if not python.exists():
        raise SystemExit(
            f"no peer to measure against: expected an interpreter with datatrove at {python}\n"
            "`make peers` makes it"
        )
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])
