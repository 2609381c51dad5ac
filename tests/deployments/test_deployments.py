"""deployments/prefect.yaml, the Makefile and the lock: what users call by name is there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, WorkPoolConfig
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.deploy import DEPLOYMENTS, POOL, deploy
from flows.settings.presets import PRESETS
from model.core.errors import ConfigError
from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
DOCUMENT = yaml.safe_load((ROOT / DEPLOYMENTS).read_text())
ITEMS: list[dict[str, Any]] = DOCUMENT["deployments"]
# Prefect drops keys it does not know without a word; `definitions` is ours, for YAML anchors.
TOP_LEVEL = {"name", "definitions", "deployments"}


def flow_of(item: dict[str, Any]) -> Flow[..., Any]:
    module, name = item["entrypoint"].rsplit(".", 1)
    return getattr(import_module(module), name)


def unknown_keys(item: dict[str, Any]) -> Iterator[str]:
    yield from set(item) - set(DeploymentConfig.model_fields)
    yield from set(item["work_pool"]) - set(WorkPoolConfig.model_fields)
    yield from set(item.get("concurrency_limit", {})) - set(ConcurrencyLimitSpec.model_fields)


def test_deployments_are_the_documented_ones() -> None:
    names = {f"{flow_of(item).name}/{item['name']}" for item in ITEMS}
    assert names == {
        "prepare/sample",
        "publish/sample",
        "sweep/ladder",
        "promote/model",
        "finetune/chat",
        "finetune/demo",
        *(f"pretrain/{preset}" for preset in PRESETS),
    }
    assert len(ITEMS) == len(names)


def test_deployment_keys_are_all_known_to_prefect() -> None:
    assert set(DOCUMENT) == TOP_LEVEL
    assert [key for item in ITEMS for key in unknown_keys(item)] == []


def test_deployment_key_with_a_typo_is_noticed() -> None:
    assert list(unknown_keys({**ITEMS[0], "concurency_limit": 1})) == ["concurency_limit"]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["entrypoint"] + "/" + item["name"])
def test_deployment_is_valid_for_its_flow(item: dict[str, Any]) -> None:
    assert DeploymentConfig.model_validate(item).entrypoint == item["entrypoint"]
    parameters = flow_of(item).validate_parameters(item["parameters"])
    preset = parameters.get("preset", item["name"])
    assert preset == {"ladder": "sample", "chat": "full"}.get(item["name"], item["name"])
    assert item["work_pool"]["name"] == POOL


@pytest.mark.parametrize(
    "item", [item for item in ITEMS if "training" in item["tags"]], ids=lambda item: item["name"]
)
def test_training_runs_one_at_a_time_and_the_next_waits(item: dict[str, Any]) -> None:
    assert item["concurrency_limit"]["limit"] == 1
    strategy = ConcurrencyLimitStrategy(item["concurrency_limit"]["collision_strategy"])
    assert strategy is ConcurrencyLimitStrategy.ENQUEUE


def test_only_what_needs_a_gpu_waits_in_the_gpu_queue() -> None:
    queues = {item["name"]: item["work_pool"]["work_queue_name"] for item in ITEMS}
    assert {name for name, queue in queues.items() if queue == "gpu"} == {
        "gpu-hour",
        "full",
        "chat",
    }
    assert set(queues.values()) == {"gpu", "default"}


def test_deploy_without_a_server_says_how_to_start_one() -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ConfigError) as caught:
        deploy()
    assert str(caught.value.where) == f"PREFECT_API_URL={url}"
    assert "make local" in str(caught.value.fix)


def lock() -> dict[str, str]:
    """Return the locked packages: name -> everything up to the next package."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    return {block.partition("==")[0]: block for block in blocks}


def test_lock_holds_every_direct_dependency_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = project["project"]["dependencies"] + groups["dev"] + groups["servers"]
    names = {re.split(r"[^A-Za-z0-9_.-]", item)[0].replace("_", "-").lower() for item in wanted} - {
        "torch"
    }
    locked = lock()
    assert names - locked.keys() == set()
    assert [name for name, block in locked.items() if "--hash=sha256:" not in block] == []


def test_lock_leaves_torch_and_its_cuda_packages_out() -> None:
    foreign = {
        name
        for name in lock()
        if name.startswith(("nvidia-", "cuda-", "torch", "triton")) and name != "nvidia-ml-py"
    }
    assert foreign == set()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with nothing but the Makefile and what it needs to be parsed."""
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def phony_targets() -> set[str]:
    match = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert match
    return set(match[1].split())


def test_make_alone_lists_every_target_with_a_phrase(checkout: Path) -> None:
    listed = dict(line.split(maxsplit=1) for line in make(checkout).stdout.splitlines())
    assert set(listed) == phony_targets()


def test_make_without_a_suitable_python_says_what_is_needed(checkout: Path) -> None:
    done = make(checkout, "demo", "PYTHONS=no-such-python")
    assert done.returncode
    assert "expected: Python 3.11, 3.12 or 3.13 with venv" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_make_clean_removes_caches_and_never_data(checkout: Path) -> None:
    kept = [
        "data/a",
        ".mlflow/mlflow.db",
        ".prefect/prefect.db",
        ".venv/bin/python",
        "model/network/gpt.py",
    ]
    gone = [".ruff_cache/x", ".pytest_cache/x", "model/__pycache__/gpt.pyc", "benchmarks/out/x"]
    for name in kept + gone:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    assert "kept: data/" in make(checkout, "clean").stdout
    assert [name for name in kept if not (checkout / name).exists()] == []
    assert [name for name in gone if (checkout / name).exists()] == []


@pytest.mark.parametrize("target", ["chat", "serve"])
def test_make_target_of_chat_takes_a_model_or_finds_one(checkout: Path, target: str) -> None:
    (module,) = re.findall(r"-m (model\.[\w.]+)", make(checkout, "-n", target).stdout)
    assert importlib.util.find_spec(module)
    assert make(checkout, "-n", target, "MODEL=some/folder").stdout.endswith(
        f"-m {module} --model some/folder\n"
    )


def test_ci_runs_make_targets_that_exist() -> None:
    script = ROOT / ".ci" / "run"
    called = re.findall(r"^make ([a-z-]+)$", script.read_text(), flags=re.MULTILINE)
    assert called == ["check", "test", "test-slow"]
    assert set(called) <= phony_targets()
    assert script.stat().st_mode & 0o111


def test_readme_calls_make_as_its_targets_want() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^make ([^#\n]+?) *(?:#.*)?$", text, flags=re.MULTILINE)
    calls = [line.split() for line in lines]
    assert {word for call in calls for word in call if "=" not in word} <= phony_targets()
    assert [call for call in calls if "bench" in call] == [["bench", "DATA=<folder>"]]
