"""model.serve.hot_reload: sources of models and the versions they resolve to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.config.outputs import ExportModelOutputs
from model.core.artifact import Derivation
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore, Work
from model.serve.hot_reload import FolderSource, NewestExport, find_source


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes(b"x")
    return path


def test_folder_keeps_its_version_until_its_files_are_rewritten(tmp_path):
    source = FolderSource(_folder(tmp_path / "tiny"))
    assert source.name == "tiny"
    version, folder = source.resolve()
    assert folder == tmp_path / "tiny"
    assert source.resolve() == (version, folder)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert source.resolve()[0] != version


def test_folder_inside_an_artifact_has_the_artifacts_name(tmp_path):
    assert FolderSource(_folder(tmp_path / "base-123" / "model")).name == "base-123"


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_folder_without_a_model_is_refused(tmp_path, gone):
    folder = _folder(tmp_path / "tiny")
    (folder / gone).unlink()
    with pytest.raises(ArtifactError, match="there is no model to serve") as caught:
        FolderSource(folder).resolve()
    assert str(folder) in str(caught.value)


def _export(root: Path, name: str, *, version: int = 1) -> str:
    def body(work: Work) -> None:
        folder = ExportModelOutputs(work.path).folder
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    derivation = Derivation(stage=ExportModelOutputs.stage, name=name, version=version)
    return ArtifactStore(root).build(derivation, body).artifact.key


def test_newest_export_prefers_chat_models_then_later_ones(tmp_path):
    source = NewestExport(tmp_path)
    with pytest.raises(ArtifactError, match="no model was exported yet"):
        source.resolve()
    _export(tmp_path, "base")
    later = _export(tmp_path, "base", version=2)
    assert source.resolve()[0] == later
    chat = _export(tmp_path, "chat")
    _export(tmp_path, "base", version=3)
    version, folder = source.resolve()
    assert version == chat
    assert (folder / "config.json").exists()


def test_find_source_takes_the_folder_or_looks_below_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path))
    key = _export(tmp_path, "base")
    assert find_source(None).resolve()[0] == key
    folder = _folder(tmp_path / "tiny")
    assert find_source(str(folder)).resolve()[1] == folder
