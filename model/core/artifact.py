"""Derivations, artifacts and manifests: the identity of everything the pipeline makes.

A *derivation* describes how something is made; the sha256 of its canonical JSON is the *key*. An
*artifact* is the directory that holds the result, named by stage, name and key. Its *manifest* is
written last and records what was made, from what, by whom. Reading and writing them on disk is
``model.core.store``'s work.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from model.core.config import Config
from model.core.errors import ConfigError

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
SHORT_KEY_CHARS = 12
SHOWN_REASONS = 3  # in one line
SHOWN_CHARS = 72  # of one of them: its field, and where its new value ends


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value: equal values have equal texts.

    Raises:
        ConfigError: a value has no stable JSON form (a set, a path, a not-a-number, an object).
    """
    _refuse_unstable(value, where="value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_unstable(value: object, *, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _unstable(key, where=f"{where} (key)")
            _refuse_unstable(item, where=f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_unstable(item, where=f"{where}[{index}]")
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        value is not None and not isinstance(value, str | int | float | bool)
    ):
        raise _unstable(value, where=where)


def _unstable(value: object, *, where: str) -> ConfigError:
    return ConfigError(
        "a value of a cache key has no stable JSON form",
        expected="text, finite numbers, booleans, lists and string-keyed mappings",
        found=f"{type(value).__name__}: {value!r}",
        where=where,
        fix="use an equivalent plain value",
    )


class Artifact(Config):
    """An artifact in the store, finished or planned: known before anything runs."""

    stage: str
    name: str
    key: str = Field(description="sha256 of the derivation, 64 hex digits")
    relative_path: str = Field(description="directory, from the data root")


class Derivation(Config):
    """How an artifact is made: exactly what may change its bytes."""

    stage: str
    name: str
    version: int = Field(description="the stage's STEP_VERSION")
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, tuple[Artifact, ...]] = Field(default_factory=dict)
    algorithms: dict[str, str] = Field(
        default_factory=dict, description="name and version of algorithms that fix bytes"
    )

    @cached_property
    def key(self) -> str:
        """The sha256 that identifies the result."""
        payload = {
            "stage": self.stage,
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "inputs": {role: [item.key for item in items] for role, items in self.inputs.items()},
            "algorithms": self.algorithms,
        }
        return hashlib.sha256(canonical_json(payload).encode()).hexdigest()

    @cached_property
    def artifact(self) -> Artifact:
        """The artifact that this derivation makes."""
        directory = f"{self.name}-{self.key[:SHORT_KEY_CHARS]}"
        return Artifact(
            stage=self.stage,
            name=self.name,
            key=self.key,
            relative_path=f"{self.stage}/{directory}",
        )

    def differences(self, other: Derivation) -> list[str]:
        """Return one line per field that differs from an ``other``, older derivation."""
        old, new = other._flat(), self._flat()
        return [
            f"{self.stage}.{field} {old.get(field, 'unset')} -> {new.get(field, 'unset')}"
            for field in sorted(old.keys() | new.keys())
            if old.get(field) != new.get(field)
        ]

    def _flat(self) -> dict[str, str]:
        flat = {"version": str(self.version)}
        flat |= {f"algorithm.{name}": value for name, value in self.algorithms.items()}
        flat |= {name: json.dumps(value) for name, value in _leaves(self.config)}
        for role, items in self.inputs.items():
            flat |= {f"input.{role}.{item.name}": item.key[:SHORT_KEY_CHARS] for item in items}
        return flat


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves += _leaves(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves


class FileEntry(Config):
    """One file of an artifact."""

    path: str = Field(description="inside the artifact, '/'-separated")
    num_bytes: int
    sha256: str
    role: Literal["content", "log"] = Field(
        description="content is the stage's result; logs may differ between runs"
    )


class Origin(Config):
    """Who made an artifact, when, with what."""

    created_at: str = Field(description="UTC, ISO 8601")
    created_by: str = Field(description="user@host")
    seconds: float = Field(description="wall-clock time of the build")
    git_commit: str | None
    versions: dict[str, str]
    prefect_flow_run_id: str | None = None
    mlflow_run_id: str | None = None


class Manifest(Config):
    """The record that makes a directory an artifact."""

    format_version: int = MANIFEST_FORMAT
    artifact: Artifact
    derivation: Derivation
    content_digest: str = Field(description="sha256 over paths and sha256s of the content files")
    input_digests: dict[str, str] = Field(
        description="key -> content digest of each input consumed"
    )
    counts: dict[str, int] = Field(description="inputs, outputs and drops; they add up")
    facts: dict[str, Any] = Field(description="other results that consumers and readers use")
    files: tuple[FileEntry, ...]
    origin: Origin

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(entry.num_bytes for entry in self.files)


def first_few(reasons: Iterable[str]) -> str:
    """Return the first few of some reasons in one line, long ones cut in their middle.

    Example:
        >>> first_few(f"s.field_{number} 1 -> 2" for number in range(9))
        's.field_0 1 -> 2, s.field_1 1 -> 2, s.field_2 1 -> 2 and 6 more'
    """
    distinct = list(dict.fromkeys(reasons))
    shown = [
        reason
        if len(reason) <= SHOWN_CHARS
        else f"{reason[: SHOWN_CHARS // 2]} ... {reason[-(SHOWN_CHARS // 3) :]}"
        for reason in distinct[:SHOWN_REASONS]
    ]
    rest = len(distinct) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the digest of an artifact's content: equal iff the content files are equal."""
    lines = sorted(f"{entry.path}\0{entry.sha256}" for entry in files if entry.role == "content")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
