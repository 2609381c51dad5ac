"""Names of files, and the demo corpus as a source."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.core.files import file_sha256
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.sources.raw_file import artifact_name
from tasks.corpus.sources.source_files import fetch_file, list_files


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sample/10BT/000_00000.parquet", "sample-10BT-000_00000"),
        ("train-00000-of-00010.parquet", "train-00000-of-00010"),
        ("a.jsonl.gz", "a.jsonl.gz"),
    ],
)
def test_artifact_name_of_a_plain_path_is_readable(path: str, name: str) -> None:
    assert artifact_name(path) == name


@pytest.mark.parametrize("path", ["my pages.parquet", "../up.parquet", "ä.parquet", "x" * 300])
def test_artifact_name_of_an_unsafe_path_is_safe_and_its_own(path: str) -> None:
    name = artifact_name(path)
    assert name.isascii()
    assert not set(name) & set("/ ")
    assert not name.startswith(".")
    assert len(name) <= 130
    assert name != artifact_name(f"{path}?")


def test_demo_shards_share_the_documents_and_follow_the_seed(tmp_path: Path) -> None:
    source = SourceConfig(kind="demo", demo_documents=200, demo_shards=3)
    files = list_files(source, data_seed=5, cache=tmp_path)
    assert [file.name for file in files] == ["demo-00000", "demo-00001", "demo-00002"]
    assert [file.digest for file in files] == ["demo:5:0:67:2", "demo:5:1:67:2", "demo:5:2:66:2"]
    tables = []
    for seed in (5, 5, 6):
        file = list_files(source, data_seed=seed, cache=tmp_path)[1]
        destination = tmp_path / f"got {len(tables)}"
        destination.mkdir()
        got = fetch_file(source, file, data_seed=seed, destination=destination)
        raw = destination / "raw.parquet"
        tables.append(raw.read_bytes())
        assert (destination / "truth.parquet").is_file()
        assert pq.read_schema(raw).names == FINEWEB_SCHEMA.names
        assert (got.sha256, got.num_rows) == (file_sha256(raw), pq.read_metadata(raw).num_rows)
        assert sorted(path.name for path in destination.iterdir()) == [
            "raw.parquet",
            "truth.parquet",
        ]
    assert tables[0] == tables[1] != tables[2]
