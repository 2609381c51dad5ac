"""deployments.server_calls: what the local stack asks its servers, against a real Prefect API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Running

from deployments.server_calls import answers, close_interrupted_runs, worker_online

POOL = "server-calls"


@flow
def idle() -> None:
    pass


@pytest.fixture
def api(prefect_api: None) -> str:
    url = PREFECT_API_URL.value()
    assert url
    return url


@pytest.fixture
def client(api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployment(client: SyncPrefectClient) -> UUID:
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
    return client.create_deployment(
        client.create_flow(idle), name="idle", work_pool_name=POOL, concurrency_limit=1
    )


def test_answers_tells_a_server_from_none(api: str) -> None:
    assert answers(f"{api}/health")
    assert not answers(f"{api}/no-such-page")
    assert not answers("http://127.0.0.1:1/")


def test_interrupted_run_is_closed_and_frees_its_slot(
    api: str, client: SyncPrefectClient, deployment: UUID
) -> None:
    cut_off, waiting, done = (
        client.create_flow_run_from_deployment(deployment, name=name)
        for name in ("cut-off", "waiting", "done")
    )
    client.set_flow_run_state(done.id, Completed(), force=True)
    client.set_flow_run_state(cut_off.id, Running(), force=True)

    assert close_interrupted_runs(api, pool=POOL) == ["cut-off"]

    state = client.read_flow_run(cut_off.id).state
    assert state
    assert (state.name, state.message) == ("Crashed", "The local stack was stopped.")
    assert client.read_flow_run(waiting.id).state_name == "Scheduled"
    assert client.read_flow_run(done.id).state_name == "Completed"
    assert close_interrupted_runs(api, pool=POOL) == []


def test_runs_of_other_pools_are_left_alone(
    api: str, client: SyncPrefectClient, deployment: UUID
) -> None:
    run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(run.id, Running(), force=True)
    assert close_interrupted_runs(api, pool="another-pool") == []
    assert close_interrupted_runs(api, pool=POOL) == [run.name]


def test_worker_is_online_once_it_reported_after_the_start(
    api: str, client: SyncPrefectClient, deployment: UUID
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert not worker_online(api, pool=POOL, name="w", since=before)
    client.request(
        "POST",
        "/work_pools/{name}/workers/heartbeat",
        path_params={"name": POOL},
        json={"name": "w"},
    )
    assert worker_online(api, pool=POOL, name="w", since=before)
    assert not worker_online(api, pool=POOL, name="w", since=before + timedelta(hours=1))
    assert not worker_online(api, pool=POOL, name="another", since=before)
    assert not worker_online(api, pool="no-such-pool", name="w", since=before)
