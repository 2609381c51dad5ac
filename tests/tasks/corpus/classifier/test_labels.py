"""Labelled documents: files here and on a hub, columns, held-out parts, retries."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.utils import close_session

from model.core.errors import (
    DownloadError,
    SourceError,
    SourceSchemaError,
    TransientDownloadError,
)
from model.core.store import ArtifactStore
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.labels import (
    labelled_source,
    read_labelled,
)
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS
from tasks.corpus.sources.source_files import list_files
from tasks.engine.stage import ResourceShare
from tasks.stages.train_quality_model import TrainQualityModelOutputs, labelled_documents
from tasks.stages.train_quality_model import train_quality_model as training_stage
from tests.support.hub_server import HubServer
from tests.support.quality_labels import (
    BITS,
    local,
    make_labelled,
)


def labelled(path: Path, tmp_path: Path, **settings):
    config = local(path, **settings)
    source = labelled_source(config)
    files = list_files(source, data_seed=0, cache=tmp_path / "cache")
    return read_labelled(source, files, config=config, seed=1, scratch=tmp_path)


def test_read_labelled_spreads_over_files_and_passes_over_gaps(tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("a", "b"):
        make_labelled(folder / f"{name}.parquet", count=400)
    gaps = pa.table({"text": [None, "", "good text", "no label"], "score": [5.0, 5.0, 5.0, None]})
    pq.write_table(gaps, folder / "c.parquet")
    assert len(labelled(folder, tmp_path, max_labelled=10_000).documents) == 801
    some = labelled(folder, tmp_path, max_labelled=150)
    assert len(some.documents) == 50 + 50 + 1
    assert len(some.good) == len(some.is_heldout) == 101


def test_read_labelled_copies_are_on_one_side_and_booleans_are_labels(tmp_path):
    texts = [f"text number {number % 50}" for number in range(500)]
    good = [number % 2 == 0 for number in range(500)]
    pq.write_table(pa.table({"body": texts, "ok": good}), tmp_path / "l.parquet")
    found = labelled(
        tmp_path / "l.parquet", tmp_path,
        text_column="body", label_column="ok", min_good_label=1.0, heldout_frac=0.3,
    )  # fmt: skip
    assert found.good.tolist() == good
    sides = {text: set() for text in texts}
    for text, side in zip(texts, found.is_heldout.tolist(), strict=True):
        sides[text].add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < found.is_heldout.sum() < 500


def test_read_labelled_wrong_column_or_changed_file_raises(tmp_path):
    path = make_labelled(tmp_path / "l.parquet", count=20)
    with pytest.raises(SourceSchemaError, match=r"grade: a number(.|\n)*score: double"):
        labelled(path, tmp_path, label_column="grade")
    config = local(path)
    source = labelled_source(config)
    files = list_files(source, data_seed=0, cache=tmp_path / "cache")
    make_labelled(path, count=21)
    with pytest.raises(SourceError, match="changed after it was listed"):
        read_labelled(source, files, config=config, seed=1, scratch=tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback with one labelled file."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    make_labelled(tmp_path / "hub" / "data" / "train.parquet", count=120)
    with HubServer(tmp_path / "hub", repo="owner/labels", revision="ab" * 20) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
    close_session()


def test_read_labelled_of_a_hub_checks_the_file_and_leaves_nothing_behind(tmp_path, hub):
    config = QualityModelConfig(repo="owner/labels", revision="main", feature_bits=BITS)
    source = labelled_source(config)
    assert source.revision == "ab" * 20
    files = list_files(source, data_seed=0, cache=tmp_path / "cache")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = read_labelled(source, files, config=config, seed=1, scratch=scratch)
    assert len(found.documents) == 120
    assert list(scratch.iterdir()) == []
    hub.faults["GET data/train.parquet"] = "corrupt"
    with pytest.raises(DownloadError, match="other bytes than it promised"):
        read_labelled(source, files, config=config, seed=1, scratch=scratch)
    assert not [path for path in scratch.rglob("*") if path.is_file()]


SHARE = ResourceShare(threads=2, memory_bytes=500_000_000)


def test_training_after_an_outage_downloads_what_is_missing(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("tasks.corpus.sources.hub_client._sleep", lambda _: None)
    names = ["data/train.parquet", "data/zoo.parquet"]
    for seed, name in enumerate(names):
        make_labelled(hub.root / name, count=700, seed=seed)
    store = ArtifactStore(tmp_path / "data")
    config = QualityModelConfig(repo="owner/labels", files="data/*.parquet", revision="main")
    learning = labelled_documents(config, data_seed=1, store=store)
    derivation = training_stage.derive("quality", config=learning, inputs={})

    def train():
        return store.build(
            derivation,
            lambda work: training_stage.build(work, learning, SHARE),
            resume=training_stage.resume,
        )

    hub.faults[names[1]] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        train()
    [work] = store.root.glob("train_quality_model/*.work")
    (work / "weights.npy.tmp").write_bytes(b"left by a kill")
    manifest = train()
    assert {file.path for file in manifest.files} == {"weights.npy", "model.json"}
    assert TrainQualityModelOutputs.counts_of(manifest).num_labelled == 1_400
    for name in names:
        assert hub.bytes_sent[name] == (hub.root / name).stat().st_size
