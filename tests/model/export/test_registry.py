"""model.export.registry: from a name and an alias to a checked folder, on a real local store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.core.errors import ArtifactError, RegistryError, TamperedArtifactError
from model.export.registry import AliasSource, fetch, find_version
from tests.support.registered import Registered, registered_versions
from tests.support.servers import free_port, local_mlflow_uri, mlflow_server

pytestmark = [
    # MLflow's own models use what its newest SQLAlchemy deprecates.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture
def two(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Registered:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    return registered_versions(request.node.name, tmp_path, num_versions=2)


def test_fetch_returns_the_folder_of_an_alias(two: Registered, tmp_path: Path) -> None:
    found = find_version(two.name, alias="candidate")
    folder = fetch(found, cache=tmp_path / "cache")
    exported = two.pipelines[1].manifests["export_model"]
    assert (found.version, found.digest) == (2, exported.content_digest)
    assert found.uri == f"models:/{two.name}/2"
    source = two.pipelines[1].store.path(exported.artifact) / "model"
    for path in source.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_find_version_follows_the_alias(two: Registered) -> None:
    client = MlflowClient(tracking_uri=local_mlflow_uri())
    for version in (1, 2, 1):
        client.set_registered_model_alias(two.name, "champion", str(version))
        assert find_version(two.name).version == version


def test_source_of_an_alias_gives_each_version_its_folder(two: Registered, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=local_mlflow_uri())
    source = AliasSource(two.name, cache=tmp_path / "cache")
    for version in ("1", "2", "1"):
        client.set_registered_model_alias(two.name, "champion", version)
        found, folder = source.resolve()
        assert found == version
        assert (folder / "model.safetensors").read_text() == f"weights {version}"


def test_fetch_again_copies_nothing(two: Registered, tmp_path: Path) -> None:
    found = find_version(two.name, alias="candidate")
    folder = fetch(found, cache=tmp_path / "cache")
    mark = (folder / "model.safetensors").stat()
    assert fetch(found, cache=tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat() == mark
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_fetch_of_tampered_files_is_refused_and_leaves_nothing(
    two: Registered, tmp_path: Path
) -> None:
    found = find_version(two.name, alias="candidate")
    weights = Path(found.source.removeprefix("file://")) / "model.safetensors"
    weights.write_text("other weights")
    with pytest.raises(TamperedArtifactError, match="sha256 mismatch"):
        fetch(found, cache=tmp_path / "cache")
    weights.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        fetch(found, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_of_another_manifest_is_refused(two: Registered, tmp_path: Path) -> None:
    found = find_version(two.name, alias="candidate")
    with pytest.raises(TamperedArtifactError, match="does not match its version"):
        fetch(found.model_copy(update={"digest": "0" * 64}), cache=tmp_path / "cache")


def test_alias_that_points_nowhere_is_an_error_that_names_it(two: Registered) -> None:
    with pytest.raises(RegistryError, match=f"models:/{two.name}@champion") as caught:
        find_version(two.name)
    assert "promote" in str(caught.value)
    with pytest.raises(RegistryError, match="models:/nobody@champion"):
        find_version("nobody")


def test_store_that_is_not_there_is_an_error_and_stays_so(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with pytest.raises(RegistryError, match="no model store yet"):
        find_version("any", uri=f"sqlite:///{database}")
    assert not database.exists()


def test_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="models:/any@champion"):
        find_version("any", uri=f"http://127.0.0.1:{free_port()}")


def test_files_that_are_gone_are_an_error(two: Registered, tmp_path: Path) -> None:
    found = find_version(two.name, alias="candidate")
    gone = found.model_copy(update={"source": (tmp_path / "nowhere").as_uri()})
    with pytest.raises(RegistryError, match="cannot be read"):
        fetch(gone, cache=tmp_path / "cache")


def test_registry_needs_no_torch() -> None:
    code = (
        "import sys, model.export.registry; "
        "assert not {'torch', 'mlflow', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_fetch_from_a_server_that_hands_out_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with mlflow_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        made = registered_versions("served", tmp_path / "data", num_versions=1)
        found = find_version(made.name, alias="candidate")
        folder = fetch(found, cache=tmp_path / "cache")
        assert found.source.startswith("mlflow-artifacts:")
        assert (folder / "model.safetensors").read_text() == "weights 1"
