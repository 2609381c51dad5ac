"""deployments.local_stack: `make local`, as it is and as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.addresses import HOST, Addresses
from deployments.deploy import PROJECT
from deployments.local_stack import stack_environment, usage
from model.config.runs import TrainResult
from model.export.registry import tracking_uri
from tasks.config.chat import ChatConfig
from tasks.config.corpus import FINEWEB_REVISION, SourceConfig
from tasks.corpus.demo.chats import demo_conversations
from tasks.corpus.demo.corpus import generate_shard
from tests.support.hub_server import HubServer
from tests.support.launched_training import last_step, processes_of
from tests.support.servers import free_port

T = TypeVar("T")

STACK = [sys.executable, "-m", "deployments.local_stack"]
PREFECT = str(Path(sys.executable).parent / "prefect")
DEFAULTS = Addresses(4200, 5000)

ENDLESS = {  # data stages of seconds, then a training without end
    "preset": "demo",
    "source": {"demo_documents": 600, "demo_shards": 2},
    "validation": {"num_documents": 40},
    "tokenizer": {"vocab_size": 512},
    "train": {"steps": 100_000, "checkpoint_every_steps": 100_000, "processes": 2},
    "then_finetune": False,
}
SMALL_FULL = {  # preset `full` where only amounts differ
    "validation": {"num_documents": 40},
    "tokenizer": {"vocab_size": 512},
    "model": {"size": "1m", "context_tokens": 128},
    "train": {
        "steps": 6,
        "batch_tokens_per_step": 1024,
        "micro_batch_rows": 4,
        "validation_tokens": 2048,
        "checkpoint_every_steps": 3,
        "processes": 2,
    },
    "score": {"validation_tokens": 2048, "sample_tokens": 8},
    "run": {"workers": 2},
    "then_finetune": False,
}

SMALL_HUB_CHAT = {  # deployment `finetune/chat` where only amounts differ
    "finetune": {
        "base": "models:/llm-base@champion",
        "train": {
            "steps": 4,
            "batch_tokens_per_step": 1024,
            "micro_batch_rows": 4,
            "validate_every_steps": 2,
            "validation_tokens": 2048,
        },
        "talk": {"turns": ["Hello!"], "answer_tokens": 8},
    },
    "score": {"validation_tokens": 2048, "sample_tokens": 8},
    "run": {"workers": 2},
}


def test_stack_keeps_runs_where_flows_started_by_hand_keep_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    environment = stack_environment(DEFAULTS, {})
    assert environment["MLFLOW_BACKEND_STORE_URI"] == tracking_uri()
    assert environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"file://{PROJECT}/.mlflow/artifacts"
    assert environment["PREFECT_HOME"] == f"{PROJECT}/.prefect"


def test_stack_environment_keeps_what_the_user_set_but_not_the_addresses() -> None:
    given = {"PREFECT_HOME": "elsewhere", "PREFECT_API_URL": "http://other/api", "HOME": "/home/me"}
    environment = stack_environment(DEFAULTS, given)
    assert environment["PREFECT_HOME"] == str(Path("elsewhere").absolute())
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert environment["HOME"] == "/home/me"


def test_usage_names_addresses_and_a_command_that_works_at_once() -> None:
    text = usage(DEFAULTS, PROJECT / ".prefect" / "logs")
    assert "http://127.0.0.1:4200 " in text
    assert "http://127.0.0.1:5000 " in text
    assert "prefect deployment run pretrain/demo --watch" in text
    assert ".prefect/logs/*.log" in text
    assert "PREFECT_API_URL" not in text


def test_usage_on_another_port_says_how_to_point_prefect_there() -> None:
    text = usage(Addresses(4300, 5000), PROJECT)
    assert "export PREFECT_API_URL=http://127.0.0.1:4300/api" in text


def test_stack_on_a_port_in_use_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        environment = {**os.environ, "PREFECT_PORT": str(port), "PREFECT_HOME": str(tmp_path)}
        done = subprocess.run(
            STACK, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"error: port {port} is in use" in done.stderr
    assert f"PREFECT_PORT={port + 1} make local" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def as_options(parameters: Mapping[str, object]) -> list[str]:
    return [
        word
        for key, value in parameters.items()
        for word in ("--param", f"{key}={json.dumps(value)}")
    ]


class RunningStack:
    """The real stack on free ports, with all its state in a directory of its own."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.addresses = Addresses(free_port(), free_port())
        self.environment = {
            **os.environ,
            **environment,
            "PREFECT_PORT": str(self.addresses.prefect_port),
            "MLFLOW_PORT": str(self.addresses.mlflow_port),
            "PREFECT_HOME": str(home / "prefect"),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": (home / "artifacts").as_uri(),
            "LLM_DATA_ROOT": str(home / "data"),
        }
        self.process = subprocess.Popen(
            STACK, cwd=PROJECT, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.output: list[str] = []
        self.wait_for("Ctrl-C ends everything")

    def wait_for(self, words: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output.append(line)
            if words in line:
                return
        pytest.fail(f"no {words!r} in:\n{''.join(self.output)}")

    def prefect(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PREFECT, *arguments],
            cwd=PROJECT,
            env={**self.environment, "PREFECT_API_URL": self.addresses.prefect_api},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_deployment(self, name: str, parameters: Mapping[str, object]) -> None:
        """Run a deployment to its end, which is Completed."""
        command = self.prefect("deployment", "run", name, *as_options(parameters), "--watch")
        output, _ = command.communicate()
        assert command.returncode == 0, output + self.log("worker")
        assert "Flow run finished successfully in 'Completed'" in output

    def log(self, name: str) -> str:
        return (Path(self.environment["PREFECT_HOME"]) / "logs" / f"{name}.log").read_text()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=120)
        self.output.append(output)
        return self.process.returncode


@contextlib.contextmanager
def running_stack(
    home: Path, environment: Mapping[str, str] | None = None
) -> Iterator[RunningStack]:
    stack = RunningStack(home, environment or {})
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.stop()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Serve the default data sets of pretraining and of chats, each of a few hundred rows."""
    directory = tmp_path_factory.mktemp("hub")
    text_repo = SourceConfig().repo
    with HubServer(write_fineweb(directory), repo=text_repo, revision=FINEWEB_REVISION) as server:
        for number, address in enumerate(ChatConfig().sets.values()):
            place = re.fullmatch(r"hub:(.+)@main:(.+)", address)
            assert place
            chat_repo, name = place.groups()
            root = directory / f"chats-{number}"
            write_chats(root / name.replace("*", "00000-of-00001"), seed=number)
            server.serve_also(chat_repo, root, revision=f"{number:040x}")
        yield server


@pytest.fixture(scope="module")
def stack(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Run one stack for all tests, which go by their order here.

    Until one cancels a run, all runs are finished; the last stops the stack, in the middle of one.
    """
    home = tmp_path_factory.mktemp("stack")
    with running_stack(home, {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hub")}) as stack:
        yield stack


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
def test_stack_serves_every_deployment(stack: RunningStack) -> None:
    found = ask(f"{stack.addresses.prefect_api}/deployments/filter", {})
    assert {item["name"] for item in found} == {
        "demo", "sample", "gpu-hour", "full", "chat", "ladder", "model",
    }  # fmt: skip
    limits = {item["name"]: item["global_concurrency_limit"] for item in found if item["tags"]}
    assert limits["demo"]["limit"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_full_and_chat_deployments_read_the_hub_and_register_both_models(
    hub: HubServer, stack: RunningStack
) -> None:
    stack.run_deployment("pretrain/full", SMALL_FULL)
    assert_tracked(stack, model="llm-base")
    stack.run_deployment("promote/model", {"name": "llm-base"})
    stack.run_deployment("finetune/chat", SMALL_HUB_CHAT)
    assert_tracked(stack, model="llm-chat")
    for shard in range(2):
        assert hub.num_requests[f"GET sample/10BT/{shard:03d}_00000.parquet"] == 1
    for name in ("train-00000-of-00001", "train_sft-00000-of-00001"):
        assert hub.num_requests[f"GET data/{name}.parquet"] == 1


def write_fineweb(directory: Path) -> Path:
    """Write two shards where the default data set has its own; return the root of the data set."""
    root = directory / "fineweb"
    shards = root / "sample" / "10BT"
    shards.mkdir(parents=True)
    for shard in range(2):
        truth = directory / f"truth-{shard}.parquet"
        path = shards / f"{shard:03d}_00000.parquet"
        generate_shard(path, shard=shard, num_documents=400, seed=1, truth_path=truth)
    return root


def write_chats(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True)
    rows = [{"messages": list(turns)} for turns in demo_conversations(400, seed=seed)]
    pq.write_table(pa.Table.from_pylist(rows), path)


def assert_tracked(stack: RunningStack, *, model: str) -> None:
    """Ask the API of MLflow for the runs, their numbers and inputs, and the registered model."""
    api = f"{stack.addresses.mlflow}/api/2.0/mlflow"
    experiments = ask(f"{api}/experiments/search", {"max_results": 10})["experiments"]
    ids = [item["experiment_id"] for item in experiments]
    runs = ask(f"{api}/runs/search", {"experiment_ids": ids})["runs"]
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    metrics = {item["key"] for run in runs for item in run["data"].get("metrics", [])}
    assert {"train/loss", "validation/loss", "validation/bits_per_byte"} <= metrics
    inputs = [item["dataset"] for run in runs for item in run["inputs"].get("dataset_inputs", [])]
    assert inputs
    assert all(re.fullmatch("[0-9a-f]{32}", item["digest"]) for item in inputs)
    found = ask(f"{api}/registered-models/get?name={model}")["registered_model"]
    assert {item["alias"] for item in found["aliases"]} >= {"candidate"}


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_cancelled_run_saves_its_training_and_leaves_no_process(stack: RunningStack) -> None:
    stack.prefect("deployment", "run", "pretrain/demo", *as_options(ENDLESS)).communicate()
    work = wait_until(lambda: training_at_step(stack, 10))
    configs = (work.parent / ".launch").glob("*/config.json")
    config = max(configs, key=lambda path: path.stat().st_mtime)
    assert set(processes_of(config)) == {"agent", "0", "1"}

    (flow_run,) = running_flows(stack)
    address = f"{stack.addresses.prefect_api}/flow_runs/{flow_run['id']}"
    ask(f"{address}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: ask(address)["state"]["type"] == "CANCELLED")
    wait_until(lambda: not processes_of(config))
    assert TrainResult.load(config.with_name("result.json")).state == "interrupted"
    assert list((work / "checkpoints").iterdir())


def running_flows(stack: RunningStack) -> list[dict[str, Any]]:
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    return ask(f"{stack.addresses.prefect_api}/flow_runs/filter", running)


def training_at_step(stack: RunningStack, step: int) -> Path | None:
    """Return the directory of a training in progress that has done a step."""
    root = Path(stack.environment["LLM_DATA_ROOT"])
    for events in root.glob("train_model/*.work/events.jsonl"):
        if last_step(events) >= step:
            return events.parent
    return None


def wait_until(ask_again: Callable[[], T]) -> T:
    """Return the first answer that is true."""
    while not (answer := ask_again()):
        time.sleep(0.1)
    return answer


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_stack_stopped_in_a_run_leaves_no_process_and_no_open_run(stack: RunningStack) -> None:
    stack.prefect("deployment", "run", "pretrain/demo", *as_options(ENDLESS)).communicate()
    wait_until(lambda: running_flows(stack))
    processes = stack.processes()
    assert len(processes) > 3  # two servers, the worker, and the run
    assert stack.stop() == 0
    assert [process for process in processes if process.is_running()] == []
    database_path = Path(stack.environment["PREFECT_HOME"]) / "prefect.db"
    with contextlib.closing(sqlite3.connect(database_path)) as database:
        states = database.execute("SELECT state_type FROM flow_run ORDER BY created").fetchall()
    *before, (last,) = states
    assert {state for (state,) in before} <= {"COMPLETED", "CANCELLED"}
    assert last in ("CRASHED", "FAILED")  # failed: its process pool broke first
