"""Identity: equal derivations share a key, and only what changes bytes changes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.core.artifact import Derivation, FileEntry, canonical_json, content_digest
from model.core.errors import ConfigError


def derivation(**changes: object) -> Derivation:
    fields = {"stage": "filter", "name": "a", "version": 1, "config": {"score": 0.65}}
    return Derivation.model_validate(fields | changes)


def test_key_worked_example_is_sha256_of_canonical_json() -> None:
    import hashlib

    text = (
        '{"algorithms":{},"config":{"score":0.65},"inputs":{},'
        '"name":"a","stage":"filter","version":1}'
    )
    found = derivation()
    assert found.key == hashlib.sha256(text.encode()).hexdigest()
    assert found.artifact.relative_path == f"filter/a-{found.key[:12]}"


def test_key_in_another_process_is_equal() -> None:
    code = (
        "from model.core.artifact import Derivation;"
        "print(Derivation(stage='filter',name='a',version=1,config={'score':0.65}).key)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "PATH": "/usr/bin"},
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == derivation().key


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "tokenise"},
        {"name": "b"},
        {"version": 2},
        {"config": {"score": 0.8}},
        {"inputs": {"raw": [derivation(name="raw").artifact]}},
        {"algorithms": {"hash": "2"}},
    ],
)
def test_key_of_any_change_differs(changes: dict[str, object]) -> None:
    assert derivation(**changes).key != derivation().key


def test_key_of_moved_input_path_is_equal() -> None:
    item = derivation(name="raw").artifact
    moved = item.model_copy(update={"relative_path": "elsewhere/raw"})
    assert derivation(inputs={"raw": [item]}).key == derivation(inputs={"raw": [moved]}).key


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": Path("x")}, {"a": float("nan")}, {1: 2}])
def test_canonical_json_of_unstable_value_raises(value: object) -> None:
    with pytest.raises(ConfigError, match="no stable JSON form"):
        canonical_json(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_canonical_json_of_any_value_reads_back(value: object) -> None:
    import json

    assert json.loads(canonical_json(value)) == value


def test_differences_of_two_settings_name_each_field() -> None:
    old = derivation(config={"min": 0.65, "deep": {"x": 1}}, version=1)
    new = derivation(config={"min": 0.8, "deep": {"x": 1}}, version=2)
    assert new.differences(old) == ["filter.min 0.65 -> 0.8", "filter.version 1 -> 2"]


def test_content_digest_of_changed_log_is_equal() -> None:
    def entry(path: str, sha: str, role: str) -> FileEntry:
        return FileEntry.model_validate({"path": path, "num_bytes": 1, "sha256": sha, "role": role})

    content = entry("a", "1", "content")
    assert content_digest((content, entry("log", "2", "log"))) == content_digest(
        (entry("log", "3", "log"), content)
    )
    assert content_digest((content,)) != content_digest((entry("a", "9", "content"),))
