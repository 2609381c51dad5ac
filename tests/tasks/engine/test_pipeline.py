"""The walk over the DAG: what runs, what is cached, in threads and in processes."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from model.core.artifact import Artifact
from model.core.config import Config
from model.core.errors import ConfigError
from model.core.outputs import Counts, Facts, Outputs
from model.core.store import ArtifactStore, Work
from tasks.config.run import RunConfig
from tasks.engine.pipeline import Pipeline, Step, task_runner
from tasks.engine.stage import ResourceShare, Stage


class Text(Config):
    text: str


def write(work: Work, config: Text, share: ResourceShare) -> None:
    (work.path / "out.txt").write_text(config.text)


def join(work: Work, config: Text, share: ResourceShare) -> None:
    parts = [(path / "out.txt").read_text() for path in work.inputs("part")]
    (work.path / "out.txt").write_text(config.text.join(parts))


def fail(work: Work, config: Text, share: ResourceShare) -> None:
    raise ConfigError("it cannot be", expected="x", found="y", where="z", fix="w")


class WriteOutputs(Outputs[Counts, Facts], stage="write"):
    """A text."""


class JoinOutputs(Outputs[Counts, Facts], stage="join"):
    """Texts, joined."""


class FailOutputs(Outputs[Counts, Facts], stage="fail"):
    """Nothing."""


WRITE = Stage(WriteOutputs, version=1, build=write)
JOIN = Stage(JoinOutputs, version=1, build=join, scope="corpus")
FAIL = Stage(FailOutputs, version=1, build=fail)


FILED_SECONDS = 60


def dag(pipeline: Pipeline, *, separator: str = "+") -> Artifact:
    parts = [pipeline.add(WRITE, name, config=Text(text=name), inputs={}) for name in "abc"]
    return pipeline.add(JOIN, "all", config=Text(text=separator), inputs={"part": parts})


def run(store: ArtifactStore, config: RunConfig, *, separator: str = "+") -> dict[str, str]:
    """Run the DAG in a flow and return the Prefect state name of each task run.

    The server makes task runs of events, which it takes in after the flow has ended.
    """

    steps: list[Step] = []

    @flow(name="dag")
    def body() -> str:
        with task_runner(config) as runner:
            pipeline = Pipeline(store, config, runner=runner)
            dag(pipeline, separator=separator)
            steps.extend(pipeline.finish())
        return str(flow_run.id)

    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(body())]))
        deadline = time.monotonic() + FILED_SECONDS
        states: dict[str, str] = {}
        while time.monotonic() < deadline:
            found = client.read_task_runs(flow_run_filter=chosen)
            states = {item.name: item.state_name or "" for item in found}
            num_final = sum(item.state is not None and item.state.is_final() for item in found)
            if num_final == len(steps):
                return states
            time.sleep(0.1)
    raise TimeoutError(f"of {len(steps)} task runs, after {FILED_SECONDS} s: {states}")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def outcomes(steps: list[Step]) -> list[str]:
    return [f"{step.artifact.stage} {step.outcome}" for step in steps]


def test_dry_walk_knows_every_artifact_and_makes_none(store: ArtifactStore) -> None:
    pipeline = Pipeline(store, RunConfig())
    artifact = dag(pipeline)
    assert outcomes(pipeline.finish()) == ["write planned"] * 3 + ["join planned"]
    assert not store.root.exists()
    assert artifact.relative_path.startswith("join/all-")


def test_stage_that_is_added_again_is_not_started_again(store: ArtifactStore) -> None:
    pipeline = Pipeline(store, RunConfig())
    artifact = dag(pipeline)
    before = pipeline.finish()
    assert dag(pipeline) == artifact
    assert [id(step) for step in pipeline.finish()] == [id(step) for step in before]


@pytest.mark.usefixtures("prefect_api")
def test_walk_twice_is_cached_the_second_time(store: ArtifactStore) -> None:
    config = RunConfig(task_runner="threads", workers=2)
    first = run(store, config)
    assert set(first) == {"write-a", "write-b", "write-c", "join-all"}
    assert set(first.values()) == {"Completed"}
    assert set(run(store, config).values()) == {"Cached"}
    artifact = dag(Pipeline(store, config))
    assert (store.path(artifact) / "out.txt").read_text() == "a+b+c"


@pytest.mark.usefixtures("prefect_api")
def test_walk_with_one_changed_setting_runs_only_its_stage(store: ArtifactStore) -> None:
    config = RunConfig(task_runner="threads", workers=2)
    run(store, config)
    states = run(store, config, separator="-")
    assert states.pop("join-all") == "Completed"
    assert set(states.values()) == {"Cached"}


@pytest.mark.usefixtures("prefect_api")
def test_walk_after_a_deleted_artifact_makes_it_and_nothing_else(store: ArtifactStore) -> None:
    config = RunConfig(task_runner="threads", workers=2)
    run(store, config)
    (victim,) = store.root.glob("write/b-*")
    (victim / "manifest.json").unlink()
    states = run(store, config)
    assert states.pop("write-b") == "Completed"
    assert set(states.values()) == {"Cached"}


@pytest.mark.usefixtures("prefect_api")
def test_walk_in_processes_makes_the_same_bytes_as_in_threads(tmp_path: Path) -> None:
    digests = []
    for kind in ("processes", "threads"):
        config = RunConfig.model_validate({"task_runner": kind, "workers": 2})
        store = ArtifactStore(tmp_path / kind)
        run(store, config)
        digests.append([manifest.content_digest for manifest in store.manifests()])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_walk_with_a_failing_stage_raises_its_typed_error(store: ArtifactStore, kind: str) -> None:
    config = RunConfig.model_validate({"task_runner": kind, "workers": 1})

    @flow(name="fails")
    def body() -> None:
        with task_runner(config) as runner:
            pipeline = Pipeline(store, config, runner=runner)
            pipeline.add(FAIL, "a", config=Text(text=""), inputs={})
            pipeline.finish()

    with pytest.raises(ConfigError, match="it cannot be") as caught:
        body()
    assert (caught.value.expected, caught.value.fix) == ("x", "w")


def test_task_runner_follows_the_setting() -> None:
    assert isinstance(task_runner(RunConfig(task_runner="threads")), ThreadPoolTaskRunner)
    assert isinstance(task_runner(RunConfig(task_runner="processes")), ProcessPoolTaskRunner)
