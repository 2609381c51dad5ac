"""HTTP calls of the local stack to its own servers."""

from __future__ import annotations

import http.client
import json
import urllib.request
from datetime import datetime
from typing import Any

REQUEST_SECONDS = 10.0
UNFINISHED = ["PENDING", "RUNNING", "CANCELLING"]


def answers(url: str) -> bool:
    """Return whether a server answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_SECONDS):  # noqa: S310
            return True
    except (OSError, http.client.HTTPException):  # URLError and time-outs are OSErrors
        return False


def worker_online(api: str, *, pool: str, name: str, since: datetime) -> bool:
    """Return whether a worker has sent a heartbeat since its start; earlier ones stay listed."""
    try:
        workers = _post(f"{api}/work_pools/{pool}/workers/filter", {})
    except (OSError, http.client.HTTPException):  # there is no pool before the first start
        return False
    return any(
        worker["name"] == name and datetime.fromisoformat(worker["last_heartbeat_time"]) > since
        for worker in workers
    )


def close_interrupted_runs(api: str, *, pool: str) -> list[str]:
    """Mark unfinished runs of the last stop or power cut as crashed; return their names.

    Such a run would hold the concurrency slot of its deployment and block every later one.
    """
    runs = _post(
        f"{api}/flow_runs/filter",
        {
            "flow_runs": {"state": {"type": {"any_": UNFINISHED}}},
            "work_pools": {"name": {"any_": [pool]}},
        },
    )
    state = {"type": "CRASHED", "name": "Crashed", "message": "The local stack was stopped."}
    for run in runs:
        _post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state})
    return [run["name"] for run in runs]


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:  # noqa: S310
        return json.load(response)
