"""Registry client: the version of a registered model, and its folder on this machine.

    models:/llm-chat@champion  ->  RegisteredVersion(version=7, …)
                               ->  <cache>/llm-chat-7-<digest12>/

``find_version`` is one small request to the MLflow store, cheap enough for every few seconds;
``fetch`` copies the files of a version at most once and verifies every byte against the manifest it
was registered with. Needs neither torch nor Prefect. MLflow is imported when first used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from model.config.outputs import ExportModelOutputs
from model.core.artifact import MANIFEST_NAME, Manifest, content_digest
from model.core.config import Config
from model.core.errors import ArtifactError, RegistryError, TamperedArtifactError
from model.core.store import check_sha256, read_manifest

URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
LOCAL_DATABASE: Final = Path(".mlflow/mlflow.db")
SQLITE_PREFIX: Final = "sqlite:///"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
DIGEST_TAG: Final = "llm.content_digest"
VALIDATION_TAG: Final = "data.validation_digest"
SHORT_DIGEST_CHARS: Final = 12
CHECKED_NAME: Final = ".checked"  # marks a whole folder, verified against its manifest
HTTP_LIMITS: Final = {  # MLflow's own defaults wait for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class RegisteredVersion(Config):
    """One version of a registered model."""

    name: str
    version: int
    alias: str
    digest: str
    source: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """The address of this version, independent of aliases."""
        return f"models:/{self.name}/{self.version}"


def tracking_uri() -> str:
    """Return the address of the store: ``$MLFLOW_TRACKING_URI``, or the project's own database."""
    root = Path(__file__).resolve().parents[2]
    return os.environ.get(URI_VARIABLE) or f"{SQLITE_PREFIX}{root / LOCAL_DATABASE}"


def find_version(name: str, *, alias: str = CHAMPION, uri: str | None = None) -> RegisteredVersion:
    """Return the version of an alias in the MLflow store at ``uri``, or ``tracking_uri()``."""
    uri = uri or tracking_uri()
    _require_store(uri)
    from mlflow import MlflowClient  # takes seconds to import

    for variable, value in HTTP_LIMITS.items():
        os.environ.setdefault(variable, value)
    try:
        found = MlflowClient(tracking_uri=uri).get_model_version_by_alias(name, alias)
    except Exception as exc:  # missing alias, model or store: MLflow's errors, or a driver's
        raise RegistryError(
            f"there is no models:/{name}@{alias}",
            expected=f"a registered model {name} with the alias {alias}",
            found=str(exc).partition("\n")[0],
            where=uri.rpartition("@")[2],
            fix="train one (`make demo`), promote one (`python -m flows.promote`), or name "
            "another model, alias or MLFLOW_TRACKING_URI",
        ) from exc
    return _known_version(found, alias=alias)


def fetch(found: RegisteredVersion, *, cache: Path, uri: str | None = None) -> Path:
    """Return the exported folder of a version in ``cache``, verified byte for byte.

    Args:
        uri: of the MLflow store; unset = ``tracking_uri()``.
    """
    folder = cache / f"{found.name}-{found.version}-{found.digest[:SHORT_DIGEST_CHARS]}"
    if (folder / CHECKED_NAME).exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as temporary:
        copied = Path(temporary) / "folder"
        _copy_files(found, copied, uri=uri or tracking_uri())
        verify_folder(copied, digest=found.digest)
        (copied / CHECKED_NAME).touch()
        try:
            copied.rename(folder)
        except OSError:
            if not (folder / CHECKED_NAME).exists():  # else another process was faster
                raise
    return folder


@dataclass(frozen=True)
class AliasSource:
    """Model source of a registry alias, for servers that poll it."""

    name: str  # of the registered model
    cache: Path  # directory for the folders of versions
    alias: str = CHAMPION

    def resolve(self) -> tuple[str, Path]:
        """Return the version and its folder; files are copied only when it is a new one."""
        found = find_version(self.name, alias=self.alias)
        return str(found.version), fetch(found, cache=self.cache)


def verify_folder(folder: Path, *, digest: str) -> Manifest:
    """Verify an exported folder against its manifest, and the manifest against a digest."""
    manifest = read_manifest(folder)
    found = content_digest(manifest.files)
    if found != digest:
        raise TamperedArtifactError(
            "the manifest of a registered model does not match its version",
            expected=digest,
            found=found,
            where=folder / MANIFEST_NAME,
            fix="delete the version and register the model again: run its pipeline",
        )
    prefix = f"{ExportModelOutputs.facts_of(manifest).directory}/"
    for entry in manifest.files:
        if entry.role == "content":
            path = folder / entry.path.removeprefix(prefix)
            if not path.exists():
                raise ArtifactError(
                    f"{path.name} of a registered model is missing",
                    expected="every file that was registered",
                    found="no such file",
                    where=path,
                    fix="delete the version and register the model again: run its pipeline",
                )
            check_sha256(path, entry)
    return manifest


def _known_version(found: Any, *, alias: str) -> RegisteredVersion:
    tags = {str(key): str(value) for key, value in found.tags.items()}
    if DIGEST_TAG not in tags:
        raise RegistryError(
            f"models:/{found.name}@{alias} was not registered by this project",
            expected=f"a version with the tag {DIGEST_TAG}",
            found=f"version {found.version} with the tags {', '.join(tags) or 'none'}",
            fix="move the alias to a version that a pipeline registered",
        )
    return RegisteredVersion(
        name=found.name,
        version=int(found.version),
        alias=alias,
        digest=tags[DIGEST_TAG],
        source=found.source,
        tags=tags,
    )


def _require_store(uri: str) -> None:
    """Refuse a missing database file: a client would create an empty one."""
    path = Path(uri.removeprefix(SQLITE_PREFIX))
    if uri.startswith(SQLITE_PREFIX) and not path.exists():
        raise RegistryError(
            "there is no model store yet",
            expected="an MLflow database",
            found="no such file",
            where=path,
            fix="train a model first (`make demo`), or set MLFLOW_TRACKING_URI",
        )


def _copy_files(found: RegisteredVersion, destination: Path, *, uri: str) -> None:
    parts = urlsplit(found.source)
    try:
        if parts.scheme in ("", "file"):
            shutil.copytree(unquote(parts.path), destination)
            return
        from mlflow.artifacts import download_artifacts

        downloaded = download_artifacts(
            artifact_uri=found.source, dst_path=str(destination.parent), tracking_uri=uri
        )
        Path(downloaded).rename(destination)  # it keeps its name in the store
    except Exception as exc:  # any error of a local or remote file store
        raise RegistryError(
            f"the files of {found.uri} cannot be read",
            expected="the folder that was registered",
            found=str(exc).partition("\n")[0],
            where=found.source,
            fix="check that the store answers and has them, or run the model's pipeline with "
            "another MLflow store: it registers the model there",
        ) from exc
