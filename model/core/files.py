"""Files: digests, synced writes, and verification against an artifact's manifest.

``read_plain_manifest`` and ``verify_recorded`` need no store: a GPU node may be given a directory
of shards without the data root it comes from. The manifest is plain JSON, and may be missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.core.artifact import MANIFEST_NAME
from model.core.errors import ArtifactError, TamperedArtifactError


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary name, synced, then renamed."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_plain_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the store's manifest as plain JSON, or None where there is none."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ArtifactError(
            "a manifest cannot be read",
            expected="JSON",
            found=exc,
            where=path,
            fix="delete the artifact and let its stage run again",
        ) from exc


def verify_recorded(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a file with the sha256 that the manifest of its directory records."""
    if not path.is_file():
        raise missing_file(path)
    expected = {entry["path"]: entry["sha256"] for entry in manifest.get("files", [])}
    found = file_sha256(path)
    if found != expected.get(path.name):
        raise TamperedArtifactError(
            f"{path.name} is not the file that its manifest records",
            expected=f"sha256 {expected.get(path.name, '(not in the manifest)')}",
            found=f"sha256 {found}",
            where=path,
            fix="delete the artifact and let write_shards run again; check the disk",
        )


def missing_file(path: Path) -> ArtifactError:
    """Return the error for a file that is not there."""
    return ArtifactError(
        "a file of an artifact is missing",
        expected=path.name,
        found="no such file",
        where=path.parent,
        fix="delete the artifact and let its stage run again",
    )
