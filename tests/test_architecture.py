"""The architecture, read from the source: layers, packages, and what each of them may import."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "tasks", "flows")
MAX_MODULES_PER_FOLDER = 35

# Package prefix -> layer; the longest prefix decides. Imports go down, or stay in their layer.
LAYERS = {
    "model.core": 0,
    "model.config": 0,
    "model.text": 0,
    "model.data": 0,
    "tasks.config": 0,
    "model": 1,
    "tasks.corpus": 2,
    "tasks.tokens": 2,
    "tasks": 3,
    "flows": 4,
}
# What a package may import of this project, beside itself; the others follow from the layers.
ALLOWED = {
    "model.core": (),
    "model.config": ("model.core",),
    "model.text": ("model.core", "model.config"),
    "model.data": ("model.core", "model.config", "model.text"),
    "tasks.config": ("model.core", "model.config"),
    "tasks.corpus": ("model.core", "model.config", "model.text", "model.data", "tasks.config"),
    "tasks.tokens": ("model.core", "model.config", "model.text", "model.data", "tasks.config"),
}
LIBRARIES = ("tasks.corpus", "tasks.tokens")
# Third-party package -> packages and modules that may import it.
ONLY_IN = {
    "prefect": ("tasks", "flows"),
    "mlflow": (
        "tasks.tracking",
        "model.train.events",
        "model.export.registry",
        "model.export.pyfunc_model",
    ),
    "gguf": ("model.export.gguf_writer",),
    "duckdb": ("tasks.corpus",),
    "torch": ("model",),
    "huggingface_hub": ("tasks.corpus.sources",),
}
LAZY = {  # the only imports inside functions
    "mlflow": ("model.train.events", "model.export.registry"),
    "matplotlib": ("tasks.reporting.plots", "tasks.corpus.report.page"),  # few tasks draw
    "sklearn": ("tasks.corpus.classifier.training",),  # one stage of a flow trains with it
    "prefect": ("flows.server",),  # its server, where none is running
}
RUN_BY_MLFLOW = "model.export.pyfunc_model"  # no module imports it; MLflow runs it as a script
BARE_NODE = {  # what a GPU node needs for model/; others are imported lazily or optional
    "torch", "numpy", "pyarrow", "pydantic", "pydantic_core", "tokenizers", "safetensors",
    "jaxtyping", "mlflow", "gguf",
}  # fmt: skip
OPTIONAL = {  # and what one package needs beyond that
    "model.serve": {"fastapi", "starlette", "uvicorn", "prometheus_client"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
STAGES = [name for name in MODULES if name.startswith("tasks.stages.")]


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


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def package_of(name: str) -> str:
    return max((prefix for prefix in LAYERS if is_in(name, prefix)), key=len)


def reached(name: str) -> set[str]:
    """Return all modules that importing ``name`` imports, third-party ones by their first name."""
    seen: set[str] = set()
    left = [name]
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            left.extend(imported(module))
    return {module if module in MODULES else module.partition(".")[0] for module in seen}


@pytest.mark.parametrize("name", MODULES)
def test_import_of_first_party_module_goes_down(name: str) -> None:
    own = package_of(name)
    for other in imported(name) & MODULES.keys():
        theirs = package_of(other)
        assert LAYERS[theirs] <= LAYERS[own], f"{name} (layer {LAYERS[own]}) imports {other}"
        if own in ALLOWED and theirs != own:
            assert theirs in ALLOWED[own], f"{name} imports {other}; {own} may not"


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, "flows")])
def test_import_of_flow_reaches_no_library_directly(name: str) -> None:
    assert not {other for other in imported(name) if is_in(other, *LIBRARIES)}


@pytest.mark.parametrize("name", [name for name in MODULES if not is_in(name, "model")])
def test_import_of_flow_or_task_never_reaches_torch(name: str) -> None:
    assert "torch" not in reached(name), f"importing {name} imports torch"


@pytest.mark.parametrize("name", MODULES)
def test_import_of_guarded_library_is_in_its_packages(name: str) -> None:
    for other in imported(name):
        packages = ONLY_IN.get(other.partition(".")[0])
        assert packages is None or is_in(name, *packages), f"{name} imports {other}"
    if LAYERS[package_of(name)] == 0 or is_in(name, *LIBRARIES):
        assert not {"prefect", "mlflow", "torch"} & reached(name)


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, "model")])
def test_import_of_model_package_needs_only_what_a_bare_node_has(name: str) -> None:
    top = {other.partition(".")[0] for other in imported(name)}
    optional = set().union(*(needs for package, needs in OPTIONAL.items() if is_in(name, package)))
    assert not top - set(sys.stdlib_module_names) - BARE_NODE - {"model"} - optional


def test_import_of_serving_package_is_its_own() -> None:
    for name in MODULES:
        if not is_in(name, "model.serve"):
            others = {other for other in imported(name) if is_in(other, "model.serve")}
            assert not others, f"{name} would need a web server's packages: {others}"


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


@pytest.mark.parametrize("name", STAGES)
def test_module_of_stages_defines_exactly_one_stage_or_task(name: str) -> None:
    found = [
        node.lineno
        for node in TREES[name].body
        if (isinstance(node, ast.Assign) and _calls(node.value, "Stage"))
        or (isinstance(node, ast.FunctionDef) and any(map(_is_task, node.decorator_list)))
    ]
    assert len(found) == 1, f"{name} defines {len(found)} stages and tasks"


def _calls(node: ast.expr, function: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == function


def _is_task(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).partition("(")[0] == "task"


def test_folder_holds_few_modules() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES.values())
    assert not {name: n for name, n in counts.items() if n > MAX_MODULES_PER_FOLDER}


def test_file_name_shadows_no_library() -> None:
    installed = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    names = {path.stem for path in MODULES.values()} - {"__init__", "__main__"}
    assert not names & installed


def test_rule_against_cycles_can_fail() -> None:
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
