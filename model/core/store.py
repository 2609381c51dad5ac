"""The artifact store: a directory tree in which a manifest is the cache.

    <root>/<stage>/<name>-<key12>/manifest.json   a finished artifact
    <root>/<stage>/<name>-<key12>.work/           an artifact in progress; survives its process
    <root>/<stage>/.locks/<name>-<key12>.lock     kernel lock of the process that writes it
    <root>/runs/<run>/<stage>/<name>              link to what one pipeline run used

A stage works in the ``.work`` directory; at its end files are synced, the manifest is written last,
and one rename publishes the artifact. A directory without a manifest does not count.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from model.core.artifact import (
    MANIFEST_NAME,
    Artifact,
    Derivation,
    FileEntry,
    Manifest,
    Origin,
    content_digest,
    first_few,
)
from model.core.errors import ArtifactError, DiskSpaceError, TamperedArtifactError, is_disk_full
from model.core.files import file_sha256, sync, write_synced

logger = logging.getLogger(__name__)

LOCK_POLL_SECONDS = 0.2
RECORDED_PACKAGES = ("duckdb", "numpy", "pyarrow", "tokenizers", "torch", "prefect", "mlflow")


@dataclass
class Work:
    """Arguments of a stage's body: a directory to fill, and fields for its numbers."""

    path: Path
    derivation: Derivation
    store: ArtifactStore
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    logs: set[str] = field(default_factory=set)  # paths, or first path parts, that are not content
    prefect_flow_run_id: str | None = None
    mlflow_run_id: str | None = None

    def input(self, role: str) -> Path:
        """Return the directory of the only input of a ``role``."""
        (path,) = self.inputs(role)
        return path

    def inputs(self, role: str) -> list[Path]:
        """Return the directories of all inputs of a ``role``, in their derivation's order."""
        return [self.store.path(item) for item in self.derivation.inputs[role]]

    def input_manifests(self, role: str) -> list[Manifest]:
        """Return the manifests of all inputs of a ``role``."""
        return [self.store.read_manifest(item) for item in self.derivation.inputs[role]]


@dataclass(frozen=True)
class Status:
    """Whether a derivation's artifact is usable, and all reasons why not."""

    state: Literal["complete", "missing", "damaged", "stale"]
    reasons: tuple[str, ...]
    manifest: Manifest | None = None

    @property
    def why(self) -> str:
        """The first few reasons, in one line."""
        return first_few(self.reasons)


class ArtifactStore:
    """The artifacts below one data root, which may be moved: all paths inside are relative."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, artifact: Artifact) -> Path:
        """Return the directory of an artifact, finished or not."""
        return self.root / artifact.relative_path

    def work_path(self, artifact: Artifact) -> Path:
        """Return the work directory of an artifact."""
        path = self.path(artifact)
        return path.with_name(f"{path.name}.work")

    def relative(self, path: Path) -> str:
        """Return where a path below the root lies from there."""
        return path.relative_to(self.root).as_posix()

    def read_manifest(self, artifact: Artifact) -> Manifest:
        """Return the manifest of a finished artifact; raises as ``read_manifest``."""
        return read_manifest(self.path(artifact))

    def status(self, derivation: Derivation) -> Status:
        """Return whether a derivation's artifact is complete, and if not, why it must be made."""
        path = self.path(derivation.artifact)
        if not (path / MANIFEST_NAME).exists():
            return Status("missing", self.explain(derivation))
        try:
            manifest = read_manifest(path)
            check_sizes(path, manifest)
        except ArtifactError as error:
            return Status("damaged", (error.problem,))
        for item in (item for items in derivation.inputs.values() for item in items):
            why = self._rebuilt_input(item, consumed=manifest.input_digests.get(item.key))
            if why:
                return Status("stale", (why,), manifest)
        reason = "its manifest is there and its files have the sizes recorded in it"
        return Status("complete", (reason,), manifest)

    def _rebuilt_input(self, item: Artifact, *, consumed: str | None) -> str | None:
        try:
            digest = self.read_manifest(item).content_digest
        except ArtifactError:
            return None  # a finished artifact does not need its inputs
        if digest == consumed:
            return None
        return f"input {item.stage}/{item.name} was rebuilt to other bytes"

    def explain(self, derivation: Derivation) -> tuple[str, ...]:
        """Return the differences between a derivation and the newest artifact of its name."""
        if self.work_path(derivation.artifact).exists():
            return ("an earlier run did not finish it",)
        newest = self.newest(derivation.stage, derivation.name)
        if newest is None:
            return ("never made",)
        return tuple(derivation.differences(newest.derivation)) or ("its directory is gone",)

    def newest(self, stage: str, name: str, *, before: str | None = None) -> Manifest | None:
        """Return the manifest of the newest artifact of a name, made ``before`` a time, if any."""
        siblings = [
            manifest
            for manifest in self.manifests(stage)
            if manifest.artifact.name == name
            and (before is None or manifest.origin.created_at < before)
        ]
        return max(siblings, key=lambda manifest: manifest.origin.created_at, default=None)

    def manifests(self, stage: str | None = None) -> list[Manifest]:
        """Return the manifests of all finished artifacts, of one stage or of all, by path."""
        pattern = f"{stage or '*'}/*/{MANIFEST_NAME}"
        found = []
        for path in sorted(path.parent for path in self.root.glob(pattern)):
            if path.suffix == ".work" or path.name.startswith("."):
                continue
            try:
                found.append(read_manifest(path))
            except ArtifactError as error:
                logger.warning("%s: skipped", error.problem)
        return found

    def build(
        self, derivation: Derivation, body: Callable[[Work], None], *, resume: bool = False
    ) -> Manifest:
        """Make an artifact unless it exists, and return its manifest.

        Only one process makes an artifact at a time; others wait and use its result.

        Args:
            body: fills ``work.path`` and ``work.counts``.
            resume: the body continues from the work directory of an earlier, killed attempt;
                otherwise the directory is emptied first.

        Raises:
            ArtifactError: an input is missing.
            DiskSpaceError: the disk filled up while the body wrote.
        """
        artifact = derivation.artifact
        with self.locked(artifact):
            status = self.status(derivation)
            if status.state == "complete" and status.manifest:
                return status.manifest
            self._discard(artifact, salvage=resume and status.state == "damaged")
            work = self._open_work(derivation, resume=resume)
            consumed = self._input_digests(derivation)
            started = time.monotonic()
            with _disk_full_named(work.path):
                body(work)
                return self._publish(work, consumed, seconds=time.monotonic() - started)

    @contextlib.contextmanager
    def locked(self, artifact: Artifact) -> Iterator[None]:
        """Hold the lock of an artifact; the kernel frees it when the process dies."""
        path = self.path(artifact)
        lock = path.parent / ".locks" / f"{path.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as handle:
            waiting = False
            while not _try_lock(handle.fileno()):
                if not waiting:
                    logger.info("waiting for the process that makes %s", artifact.relative_path)
                waiting = True
                time.sleep(LOCK_POLL_SECONDS)
            yield

    def is_locked(self, artifact: Artifact) -> bool:
        """Return whether a process is making an artifact."""
        path = self.path(artifact)
        lock = path.parent / ".locks" / f"{path.name}.lock"
        if not lock.exists():
            return False
        with lock.open("a") as handle:
            return not _try_lock(handle.fileno())

    def verify(self, artifact: Artifact) -> Manifest:
        """Read every file of an artifact and compare it with its manifest.

        Raises:
            ArtifactError: a file is missing or has another size.
            TamperedArtifactError: a file has another sha256.
        """
        path = self.path(artifact)
        manifest = read_manifest(path)
        check_sizes(path, manifest)
        for entry in manifest.files:
            if entry.role == "content" or (path / entry.path).exists():
                check_sha256(path / entry.path, entry)
        return manifest

    def link_run(self, run: str, artifacts: list[Artifact]) -> Path:
        """Link the artifacts of one run below ``runs/<run>/`` and return that directory."""
        home = self.root / "runs" / run
        for artifact in artifacts:
            link = home / artifact.stage / artifact.name
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                link.unlink()
            link.symlink_to(Path("../../..") / artifact.relative_path, target_is_directory=True)
        return home

    def _discard(self, artifact: Artifact, *, salvage: bool) -> None:
        """Remove a damaged or stale artifact; a resumable one becomes a work directory again."""
        path = self.path(artifact)
        if path.exists():  # without a manifest it does not count
            (path / MANIFEST_NAME).unlink(missing_ok=True)
            if salvage and not self.work_path(artifact).exists():
                path.rename(self.work_path(artifact))
            else:
                shutil.rmtree(path)

    def _open_work(self, derivation: Derivation, *, resume: bool) -> Work:
        path = self.work_path(derivation.artifact)
        if path.exists() and not resume:
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / MANIFEST_NAME).unlink(missing_ok=True)
        return Work(path, derivation, self)

    def _input_digests(self, derivation: Derivation) -> dict[str, str]:
        items = (item for items in derivation.inputs.values() for item in items)
        return {item.key: self.read_manifest(item).content_digest for item in items}

    def _publish(self, work: Work, consumed: dict[str, str], *, seconds: float) -> Manifest:
        files = _describe_files(work)
        manifest = Manifest(
            artifact=work.derivation.artifact,
            derivation=work.derivation,
            content_digest=content_digest(files),
            input_digests=consumed,
            counts=work.counts,
            facts=work.facts,
            files=files,
            origin=_origin(work, seconds=seconds),
        )
        text = manifest.model_dump_json(indent=1)
        write_synced(work.path / MANIFEST_NAME, text.encode())
        target = self.path(work.derivation.artifact)
        work.path.rename(target)
        sync(target.parent)
        return manifest


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the artifact in a ``directory``.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as exc:
        raise ArtifactError(
            f"{directory.parent.name}/{directory.name} has no readable manifest",
            expected=f"{MANIFEST_NAME} written by this project",
            found=str(exc).splitlines()[0],
            where=path,
            fix="run the pipeline again: it rebuilds what is missing",
        ) from exc


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Compare the sizes of an artifact's content files with its manifest."""
    for entry in manifest.files:
        if entry.role == "log":
            continue  # may be deleted to free space
        path = directory / entry.path
        found = path.stat().st_size if path.exists() else None
        if found != entry.num_bytes:
            raise ArtifactError(
                f"{entry.path} is {'missing' if found is None else 'of another size'}",
                expected=f"{entry.num_bytes} bytes",
                found="no file" if found is None else f"{found} bytes",
                where=path,
                fix="run the pipeline again: it rebuilds this artifact",
            )


def check_sha256(path: Path, entry: FileEntry) -> None:
    """Compare one file with the sha256 of its manifest entry."""
    found = file_sha256(path)
    if found != entry.sha256:
        raise TamperedArtifactError(
            f"{entry.path} holds other bytes than were written (sha256 mismatch)",
            expected=entry.sha256,
            found=found,
            where=path,
            fix=f"delete {path.parent} and run the pipeline again: it rebuilds this artifact",
        )


def _describe_files(work: Work) -> tuple[FileEntry, ...]:
    """Sync every file of a work directory and return its entries, by path."""
    entries = []
    for path in sorted(item for item in work.path.rglob("*") if item.is_file()):
        name = path.relative_to(work.path).as_posix()
        sync(path)
        entries.append(
            FileEntry(
                path=name,
                num_bytes=path.stat().st_size,
                sha256=file_sha256(path),
                role="log" if name.split("/")[0] in work.logs else "content",
            )
        )
    for directory in (item for item in work.path.rglob("*") if item.is_dir()):
        sync(directory)
    return tuple(entries)


def _origin(work: Work, *, seconds: float) -> Origin:
    return Origin(
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        created_by=f"{_user()}@{socket.gethostname()}",
        seconds=round(seconds, 3),
        git_commit=git_commit(),
        versions=package_versions(),
        prefect_flow_run_id=work.prefect_flow_run_id,
        mlflow_run_id=work.mlflow_run_id,
    )


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape artifacts."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def git_commit() -> str | None:
    """Return the commit of the code that runs, ``None`` outside a git checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return str(os.getuid())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _disk_full_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if not is_disk_full(exc):
            raise
        raise DiskSpaceError(
            "the disk filled up while an artifact was written",
            found=f"{shutil.disk_usage(path).free} bytes free",
            where=path,
            fix="free some space and run again: finished artifacts are kept, "
            "`python -m tasks.artifacts prune` lists what no run uses",
        ) from exc
