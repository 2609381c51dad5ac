"""The floors of the house, read from the source: imports only go down."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "tasks", "flows")
CONFIGS = {"tasks.config.chat", "tasks.config.corpus", "tasks.config.evaluation"}
GROUND = {"model", "tasks", "flows", *CONFIGS} | {
    f"model.{name}"
    for name in (
        "errors",
        "config",
        "artifact",
        "store",
        "tokenizer",
        "chat",
        "conversation",
        "shards",
        "rows",
        "recorded_files",
        "arrow_streams",
        "run_config",
        "train_config",
        "dial",
        "schedule",
        "child_runs",
        "scaling",
        "items",
        "prompts",
    )
}
# third-party name -> modules (or packages, with a dot at the end) that may import it
ONLY_IN = {
    "prefect": ("tasks.", "flows."),
    "mlflow": (
        "tasks.tracking.run",
        "model.train.events",
        "model.export.registry",
        "model.export.pyfunc_model",
    ),
    "gguf": ("model.export.gguf_writer",),
    "duckdb": ("tasks.corpus.",),
    "torch": ("model.",),
    "huggingface_hub": ("tasks.corpus.",),
    "lm_eval": ("model.eval.harness",),
}
LAZY = {  # the only imports inside functions
    "mlflow": ("model.train.events", "model.export.registry"),
    "lm_eval": ("model.eval.harness",),
    "matplotlib": ("tasks.reporting.loss_plot",),  # one task of a flow draws
    "prefect": ("flows.settings.cli",),  # its server, which a mistake in the settings needs not
}
TASKS_MAY_USE = (
    "model.train.events",
    "model.export.registry",
)  # of what is no ground: neither needs torch
RUN_BY_MLFLOW = "model.export.pyfunc_model"  # nothing imports it; MLflow runs it, so it may do work
LIBRARIES = ("tasks.corpus", "tasks.tokens")
BARE_NODE = {  # what model/ may need on a GPU node; others are imported lazily or optional
    "torch", "numpy", "pyarrow", "pydantic", "pydantic_core", "tokenizers", "safetensors",
    "jaxtyping", "mlflow", "gguf",
}  # fmt: skip
SERVING = {"fastapi", "starlette", "uvicorn", "prometheus_client"}  # and who needs them:
SERVES = ("model.serve", "model.serve.metrics", "model.serve.handlers", "model.serve.http_limits")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Yield (statement, imported module) for every import below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node, whole if whole in MODULES else node.module or ""


def imported(name: str) -> set[str]:
    return {module for _, module in imports(TREES[name])}


def floor(name: str) -> int:
    if name in GROUND:
        return 0
    if name.startswith("model."):
        return 1
    if name.startswith(LIBRARIES):
        return 2
    return 4 if name.startswith("flows") else 3


@pytest.mark.parametrize("name", MODULES)
def test_import_of_first_party_module_goes_down(name: str) -> None:
    for other in imported(name) & MODULES.keys():
        beside = name.rpartition(".")[0] == other.rpartition(".")[0] or other in GROUND
        assert floor(other) < floor(name) or (floor(other) == floor(name) and beside), (
            f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
        )


@pytest.mark.parametrize("name", MODULES)
def test_import_of_floor_crosses_no_wall(name: str) -> None:
    for other in imported(name) & MODULES.keys():
        if name.startswith(LIBRARIES):
            assert floor(other) == 0 or other.startswith(name.rpartition(".")[0]), (
                f"the library module {name} imports {other}"
            )
        if floor(name) == 3:
            assert floor(other) != 1 or other in TASKS_MAY_USE, (
                f"the task module {name} imports {other}, which computes"
            )
        if floor(name) == 4:
            assert not other.startswith(LIBRARIES), f"the flow module {name} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_import_of_guarded_library_is_in_its_rooms(name: str) -> None:
    for other in imported(name):
        rooms = ONLY_IN.get(other.partition(".")[0])
        assert rooms is None or name.startswith(rooms), f"{name} imports {other}"
    if name.startswith(LIBRARIES) or name in GROUND:
        assert not imported(name) & {"prefect", "mlflow", "torch"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("model")])
def test_import_of_model_package_needs_only_what_a_bare_node_has(name: str) -> None:
    top = {other.partition(".")[0] for other in imported(name)}
    foreign = top - set(sys.stdlib_module_names) - BARE_NODE - {"model", "tasks"}
    own = SERVING if name in SERVES else {"lm_eval"} if name == "model.eval.harness" else set()
    assert not foreign - own
    assert not {other for other in imported(name) if other.startswith(("tasks", "flows"))}


def test_import_of_serving_rooms_is_theirs_alone() -> None:
    for name in MODULES.keys() - set(SERVES):
        assert not imported(name) & set(SERVES), f"{name} would need a web server's packages"


@pytest.mark.parametrize("name", MODULES)
def test_import_of_first_party_module_is_never_inside_a_function(name: str) -> None:
    for function in ast.walk(TREES[name]):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for _, other in imports(function):
                assert other.partition(".")[0] not in PACKAGES, f"{function.name} imports {other}"
                lazy = name in LAZY.get(other.partition(".")[0], ())
                assert lazy, f"{name}.{function.name} imports {other}"


def test_module_that_mlflow_runs_is_imported_by_none() -> None:
    assert not [name for name in MODULES if RUN_BY_MLFLOW in imported(name)]


def test_imports_have_no_cycle() -> None:
    graph = {name: (imported(name) & MODULES.keys()) - {name} for name in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_module_top_level_only_defines(name: str) -> None:
    for node in TREES[name].body if name != RUN_BY_MLFLOW else ():
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_text or not isinstance(node, ast.Expr | ast.For | ast.While | ast.With), (
            f"{name} line {node.lineno} does work when imported"
        )


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_docstring(name: str) -> None:
    assert ast.get_docstring(TREES[name]), f"{name} has no module docstring"


def test_file_name_of_flow_or_task_shadows_no_library() -> None:
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    names = {path.stem for package in ("flows", "tasks") for path in (ROOT / package).glob("*.py")}
    assert not (names - {"__init__"}) & installed


def test_rule_against_cycles_can_fail() -> None:
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
