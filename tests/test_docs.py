"""README and docs/ against the code: links, commands, settings, names, queries, the DAG."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
import yaml

from docs.write_settings import PAGE, settings_page
from flows.pretrain import PRETRAIN
from flows.settings.config import (
    ChatModelConfig,
    LadderConfig,
    PrepareConfig,
    PretrainConfig,
    PublishConfig,
)
from flows.settings.overrides import merged_config, parse_settings, single_settings
from flows.settings.resolve import resolve
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
ARCHITECTURE = DOCS / "architecture.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
MAX_README_LINES = 150
CODE = ("model", "tasks", "flows")
CONFIGS = {
    "prepare": PrepareConfig,
    "publish": PublishConfig,
    "pretrain": PretrainConfig,
    "finetune": ChatModelConfig,
    "sweep": LadderConfig,
}
HELP = (  # modules whose command line is read without torch
    *(f"flows.{name}" for name in (*CONFIGS, "promote")),
    "tasks.artifacts",
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MODULE = re.compile(r"(?:python|\$\(RUN\)) -m ([\w.]+)")
TARGET = re.compile(r"(?:^|`|\$ )make ([a-z][a-z-]*)", re.MULTILINE)
DEPLOYMENT = re.compile(r"prefect deployment run ([\w-]+/[\w-]+)")
FLOW_COMMAND = re.compile(r"python -m flows\.([^`\n]+)")
REFERENCE = re.compile(
    r"`((?:model|tasks|flows|tests|docs|deployments|benchmarks)/[\w/.-]+)(?::([\w.]+))?`"
)


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=identify)


# --- pages --------------------------------------------------------------------------------------


def test_settings_page_is_what_the_configs_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), (
        "run `python -m docs.write_settings` and commit docs/settings.md"
    )


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@pages
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_anchor_of_a_heading_is_githubs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c, the d's 1_e\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"a-b-c-the-ds-1_e"}


# --- commands -----------------------------------------------------------------------------------


@pages
def test_commands_name_modules_targets_and_deployments_that_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for module in MODULE.findall(text):
        assert module in ("pip", "venv") or importlib.util.find_spec(module), module
    for target in TARGET.findall(text):
        assert target in targets, f"make {target}"
    for deployment in DEPLOYMENT.findall(text):
        assert deployment in deployments(), deployment


def deployments() -> set[str]:
    listed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    return {f"{item['entrypoint'].rpartition('.')[2]}/{item['name']}" for item in listed}


def test_readme_names_every_flow_and_deployment() -> None:
    named = re.findall(r"`((?:\w+)/(?:[\w-]+))`", README.read_text())
    assert deployments() == {
        name for name in named if name.partition("/")[0] in (*CONFIGS, "promote")
    }


@pages
def test_settings_in_commands_exist(page: Path) -> None:
    for flow, words in flow_commands(page.read_text()):
        pairs = list(itertools.pairwise(words))
        given = [value for option, value in pairs if option == "--set"]
        kind = CONFIGS[flow]
        settings = parse_settings(given, alone=single_settings(kind))
        merged_config(dict(pairs).get("--preset", "sample"), settings, kind=kind)


def flow_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (flow, words) of each command that starts a flow and leaves nothing out."""
    for command in FLOW_COMMAND.findall(text):
        if "..." not in command and "<" not in command:
            flow, *words = shlex.split(command, comments=True)
            if flow in CONFIGS:
                yield flow, words


def test_flow_commands_are_found_in_blocks_and_in_text() -> None:
    text = "so `python -m flows.sweep --dry-run` and\n\n.venv/bin/python -m flows.prepare # all\n"
    assert list(flow_commands(text)) == [("sweep", ["--dry-run"]), ("prepare", [])]
    assert len(list(flow_commands(README.read_text()))) >= 3


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", HELP)
def test_help_of_command_is_shown(module: str) -> None:
    assert f"usage: python -m {module}" in run(sys.executable, "-m", module, "--help")


def test_make_help_lists_every_target_of_the_readme() -> None:
    listed = {line.split()[0] for line in run("make", "help").splitlines()}
    assert set(TARGET.findall(README.read_text())) <= listed


def test_artifacts_command_lists_an_empty_store(tmp_path: Path) -> None:
    shown = run(sys.executable, "-m", "tasks.artifacts", "list", LLM_DATA_ROOT=str(tmp_path))
    assert "artifact" in shown


def test_dry_run_of_the_demo_plans_its_stages(tmp_path: Path) -> None:
    command = "-m flows.pretrain --preset demo --set filter.min_words=30 --dry-run"
    assert f"python {command}" in (DOCS / "demo.md").read_text()
    shown = run(sys.executable, *command.split(), LLM_DATA_ROOT=str(tmp_path))
    assert "filter.min_words = 30" in shown
    assert "talk_to_model" in shown
    assert not list(tmp_path.glob("download/*"))


@pages
def test_queries_parse(page: Path) -> None:
    for language, text in FENCE.findall(page.read_text()):
        if language == "sql":
            assert duckdb.extract_statements(text)


# --- architecture -------------------------------------------------------------------------------


@pages
def test_references_to_code_exist(page: Path) -> None:
    if "decisions" in page.parts:  # each tells of its own time
        return
    for path, name in REFERENCE.findall(page.read_text()):
        assert (ROOT / path).exists(), path
        assert not name or name in definitions(ROOT / path), f"{path}:{name}"


def definitions(path: Path) -> set[str]:
    """Return the names a module defines: functions, classes, methods, constants."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        names |= _defined(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for item in node.body for name in _defined(item)}
    return names


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {item.id for item in node.targets if isinstance(item, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def test_architecture_names_every_package_and_stage() -> None:
    text = ARCHITECTURE.read_text()
    inits = (
        path for name in ("model", "tasks", "flows") for path in (ROOT / name).rglob("__init__.py")
    )
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in inits} - {
        "model",
        "tasks",
    }
    stages = {path.stem for path in (ROOT / "tasks" / "stages").glob("[!_]*.py")}
    assert not {name for name in packages | stages if f"`{name}`" not in text}


def test_picture_of_the_dag_is_the_plan_of_the_demo(tmp_path: Path) -> None:
    """Every input of a stage is reached by arrows, and no arrow between stages is invented."""
    plan = planned_inputs(tmp_path)
    drawn = drawn_arrows()
    stages = {stage for pair in plan for stage in pair}
    assert stages <= {stage for pair in drawn for stage in pair}
    assert not {pair for pair in drawn if set(pair) <= stages} - plan
    assert not {(one, other) for one, other in plan if other not in reached(one, drawn)}


def planned_inputs(root: Path) -> set[tuple[str, str]]:
    store = ArtifactStore(root)
    settings = resolve("demo", {}, kind=PretrainConfig, store=store)
    pipeline = Pipeline(store, settings.config.run)
    PRETRAIN.dag(pipeline, settings)
    return {
        (item.stage, step.artifact.stage)
        for step in pipeline.steps.values()
        for items in step.derivation.inputs.values()
        for item in items
    }


def drawn_arrows() -> set[tuple[str, str]]:
    """Return the arrows of the picture by the labels of their boxes."""
    tag = "{http://www.w3.org/2000/svg}"
    groups = ET.parse(DOCS / "pictures" / "dag.svg").iter(f"{tag}g")
    found = [(item.get("class"), item.findtext(f"{tag}title") or "", item) for item in groups]
    labels = {title: item.findtext(f"{tag}text") for kind, title, item in found if kind == "node"}
    source = (DOCS / "pictures" / "dag.dot").read_text()
    assert all(str(label) in source for label in labels.values()), "render dag.dot again"
    edges = (title.split("->") for kind, title, _ in found if kind == "edge")
    return {(str(labels[one]), str(labels[other])) for one, other in edges}


def reached(stage: str, arrows: set[tuple[str, str]]) -> set[str]:
    seen: set[str] = set()
    left = [stage]
    while left:
        here = left.pop()
        further = {other for one, other in arrows if one == here} - seen
        seen |= further
        left.extend(further)
    return seen
