"""tasks.corpus.sources.hub, against a server on loopback with the hub's protocol."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import (
    DownloadError,
    SourceError,
    SourceRecordError,
    SourceSchemaError,
    TransientDownloadError,
)
from model.core.files import file_sha256
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.sources.licences import LICENCES, Licence
from tasks.corpus.sources.source_files import FetchedFile, fetch_file, list_files, resolve_revision
from tests.support.hub_pages import (
    FILE_ROWS,
    REPO,
    REVISION,
    hub_environment,
    hub_source,
    pages_hub,
)
from tests.support.hub_server import HubServer
from tests.support.source_files import fetch_all, fetch_rows, local, make_rows, write_parquet


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with hub_environment(monkeypatch):
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with pages_hub(tmp_path / "repository", monkeypatch) as server:
        yield server


def test_hub_files_listed_are_sorted_and_pinned(hub: HubServer, tmp_path: Path) -> None:
    files = list_files(hub_source(), data_seed=1, cache=tmp_path / "cache")
    assert [file.name for file in files] == ["data-a", "data-b"]
    assert files[0].path == "data/a.parquet"
    assert files[0].digest == f"{REVISION}:data/a.parquet"
    assert files[0].sha256 == file_sha256(hub.root / "data/a.parquet")
    assert files[0].num_bytes == (hub.root / "data/a.parquet").stat().st_size
    assert files[0].take_rows is None


def test_hub_glob_with_two_stars_crosses_folders(hub: HubServer, tmp_path: Path) -> None:
    files = list_files(hub_source(files="**/*.parquet"), data_seed=1, cache=tmp_path / "cache")
    assert [file.name for file in files] == ["data-a", "data-b", "data-deeper-c"]


def test_hub_glob_without_match_says_what_is_there(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no file that matches") as caught:
        list_files(hub_source(files="data/*.csv"), data_seed=1, cache=tmp_path / "cache")
    assert "data/a.parquet" in str(caught.value)


def test_hub_branch_is_resolved_to_its_commit(hub: HubServer, tmp_path: Path) -> None:
    branch = hub_source(revision="main")
    assert resolve_revision(branch).revision == REVISION
    files = list_files(branch, data_seed=1, cache=tmp_path / "cache")
    assert files == list_files(hub_source(), data_seed=1, cache=tmp_path / "cache")


def test_hub_listing_of_a_commit_is_remembered_offline(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = hub_source(max_documents=1_100)
    files = list_files(limited, data_seed=1, cache=tmp_path / "cache")
    hub.reset_counts()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert list_files(limited, data_seed=1, cache=tmp_path / "cache") == files
    assert not hub.num_requests
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE \(now 1\)") as caught:
        list_files(limited, data_seed=1, cache=tmp_path / "other cache")
    assert not isinstance(caught.value, TransientDownloadError)


def test_hub_unreachable_and_never_listed_names_address_and_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(TransientDownloadError, match="cannot be reached") as caught:
        list_files(SourceConfig(), data_seed=1, cache=tmp_path / "cache")
    for words in (
        f"HF_ENDPOINT (now {address})",
        "/datasets/HuggingFaceFW/fineweb/tree/",
        "source.kind=local",
    ):
        assert words in str(caught.value)


def test_hub_address_without_scheme_is_no_transient_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.org")
    with pytest.raises(DownloadError, match="malformed") as caught:
        list_files(hub_source(), data_seed=1, cache=tmp_path / "cache")
    assert not isinstance(caught.value, TransientDownloadError)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"revision": "f" * 40}, "no such revision"),
        ({"repo": "owner/nothing"}, "knows no such data set"),
        ({"files": "nowhere/*.parquet"}, "no such file"),
    ],
)
def test_hub_wrong_name_says_which_setting_to_check(
    hub: HubServer, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(DownloadError, match=words) as caught:
        list_files(hub_source(**settings), data_seed=1, cache=tmp_path / "cache")
    assert f"source.{next(iter(settings))}" in str(caught.value)


def test_hub_gated_data_set_needs_the_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_test"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match=r"gated[\s\S]*HF_TOKEN \(now set\)") as caught:
        list_files(hub_source(), data_seed=1, cache=tmp_path / "cache")
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert len(fetch_all(hub_source(max_documents=1_100), tmp_path)) == 2


def test_hub_whole_file_keeps_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    got, raw = fetch_all(hub_source(), tmp_path)[0]
    origin = hub.root / "data/a.parquet"
    assert raw.read_bytes() == origin.read_bytes()
    assert got == FetchedFile(
        num_rows=FILE_ROWS[0],
        num_bytes=origin.stat().st_size,
        sha256=file_sha256(origin),
        partial=False,
        num_skipped_records=0,
    )
    assert [path.name for path in raw.parent.rglob("*")] == ["raw.parquet"]


def test_hub_whole_file_is_downloaded_from_the_listed_commit(
    hub: HubServer, tmp_path: Path
) -> None:
    file = list_files(hub_source(revision="main"), data_seed=1, cache=tmp_path / "cache")[0]
    moved = hub_source(revision="moved-since")
    got = fetch_file(moved, file, data_seed=1, destination=tmp_path)
    assert got.sha256 == file.sha256


def test_hub_file_with_other_rows_than_listed_is_refused(hub: HubServer, tmp_path: Path) -> None:
    file = list_files(hub_source(), data_seed=1, cache=tmp_path / "cache")[0]
    counted = file.model_copy(update={"num_rows": 7})
    with pytest.raises(DownloadError, match=r"expected: 7 rows\s+found: 1,000 rows"):
        fetch_file(hub_source(), counted, data_seed=1, destination=tmp_path)


def test_hub_limit_takes_whole_files_then_a_part(hub: HubServer, tmp_path: Path) -> None:
    source = hub_source(max_documents=1_250)
    files = list_files(source, data_seed=1, cache=tmp_path / "cache")
    assert [(file.take_rows, file.num_rows) for file in files] == [(None, 1_000), (250, 600)]
    first = list_files(
        source.model_copy(update={"max_documents": 1_000}), data_seed=1, cache=tmp_path
    )
    assert [(file.name, file.take_rows) for file in first] == [("data-a", None)]
    assert fetch_rows(source, tmp_path) == make_rows(1_250)


def test_hub_sample_reads_only_the_row_groups_it_needs(hub: HubServer, tmp_path: Path) -> None:
    # Larger than the 64 kB that Arrow reads of any file's end.
    big = [row | {"text": os.urandom(2_000).hex()} for row in make_rows(1_000)]
    whole = write_parquet(hub.root / "big/d.parquet", big)
    source = hub_source(files="big/d.parquet", max_documents=250)
    (got, raw), *_ = fetch_all(source, tmp_path)
    assert pq.read_table(raw).to_pylist() == big[:250]
    assert (got.num_rows, got.partial, got.sha256) == (250, True, file_sha256(raw))
    # Three of ten groups in one read each, and twice the footer in two: to count, then to read.
    footer = 65_536 + pq.read_metadata(whole).serialized_size
    assert hub.bytes_sent["big/d.parquet"] < 0.3 * whole.stat().st_size + 2 * footer
    assert hub.num_requests["GET big/d.parquet"] == 3 + 2 * 2
    (again, raw_again), *_ = fetch_all(source, tmp_path / "again")
    assert (again, raw_again.read_bytes()) == (got, raw.read_bytes())


def test_hub_sample_is_a_data_set_and_a_local_source(hub: HubServer, tmp_path: Path) -> None:
    [(got, raw)] = fetch_all(hub_source(max_documents=150), tmp_path)
    card = (raw.parent / "README.md").read_text()
    for words in (REPO, REVISION, "data/a.parquet", "0 to 149 of 1000", got.sha256):
        assert words in card
    loaded = datasets.load_dataset(str(raw.parent), cache_dir=str(tmp_path / "datasets"))
    assert loaded["train"].to_list() == make_rows(150)
    assert fetch_rows(local(raw.parent), tmp_path / "local") == make_rows(150)


def test_hub_card_names_the_licence_of_fineweb_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "root/sample/10BT/000_00000.parquet", make_rows(20))
    with HubServer(tmp_path / "root", repo="HuggingFaceFW/fineweb", revision=REVISION) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = SourceConfig(revision=REVISION, max_documents=10)
        [(_, raw)] = fetch_all(source, tmp_path)
        monkeypatch.setitem(LICENCES, "HuggingFaceFW/fineweb", Licence("cc0-1.0", ""))
        [(_, other)] = fetch_all(source, tmp_path / "other")
    assert raw.parent.name == "sample-10BT-000_00000"
    assert (raw.parent / "README.md").read_text().startswith("---\nlicense: odc-by\n")
    assert (other.parent / "README.md").read_text().startswith("---\nlicense: cc0-1.0\n")


def test_hub_file_of_another_data_set_gets_fineweb_columns(hub: HubServer, tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.large_string()), ("score", pa.int64())])
    write_parquet(hub.root / "other/e.parquet", [{"text": "One.", "score": 1}], schema)
    [(got, raw)] = fetch_all(hub_source(files="other/*.parquet"), tmp_path)
    assert pq.read_schema(raw).equals(FINEWEB_SCHEMA)
    assert pq.read_table(raw)["text"].to_pylist() == ["One."]
    assert not got.partial


def test_hub_file_of_another_data_set_is_mapped_and_its_broken_rows_are_counted(
    hub: HubServer, tmp_path: Path
) -> None:
    body = pa.array([b"One.", b"bad \xff", b"Three."], pa.binary()).view(pa.string())
    table = pa.table({"body": body})
    (hub.root / "other").mkdir()
    pq.write_table(table, hub.root / "other/f.parquet")
    source = hub_source(files="other/*.parquet")
    with pytest.raises(SourceSchemaError, match=r'source.columns={"text": "<column') as caught:
        fetch_all(source, tmp_path)
    assert (
        caught.value.where == f"{hub.endpoint}/datasets/{REPO}/resolve/{REVISION}/other/f.parquet"
    )
    mapped = source.model_copy(update={"columns": {"text": "body"}})
    with pytest.raises(SourceRecordError, match=r"f.parquet, row 1[\s\S]*on_broken_record=skip"):
        fetch_all(mapped, tmp_path)
    skipping = mapped.model_copy(update={"on_broken_record": "skip"})
    [(got, raw)] = fetch_all(skipping, tmp_path)
    assert pq.read_table(raw)["text"].to_pylist() == ["One.", "Three."]
    assert (got.num_rows, got.num_skipped_records) == (2, 1)
    [(sample, _)] = fetch_all(skipping.model_copy(update={"max_documents": 2}), tmp_path / "sample")
    assert (sample.num_rows, sample.num_skipped_records, sample.partial) == (1, 1, True)


def test_hub_source_settings_that_rewrite_nothing_leave_its_identity() -> None:
    plain = hub_source().semantic()
    assert plain == {"kind": "hub", "repo": REPO, "revision": REVISION}
    assert hub_source(columns={}, on_broken_record="fail").semantic() == plain
    mapped = hub_source(columns={"text": "body"}, on_broken_record="skip").semantic()
    assert mapped == plain | {"columns": {"text": "body"}, "on_broken_record": "skip"}


def test_hub_file_in_the_users_hub_cache_needs_no_network(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_cache = str(tmp_path / "hub cache")
    huggingface_hub.hf_hub_download(
        REPO,
        "data/a.parquet",
        repo_type="dataset",
        revision=REVISION,
        endpoint=hub.endpoint,
        cache_dir=user_cache,
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", user_cache)
    source = hub_source(max_documents=1_000)
    files = list_files(source, data_seed=1, cache=tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.reset_counts()
    fetch_file(source, files[0], data_seed=1, destination=tmp_path)
    assert file_sha256(tmp_path / "raw.parquet") == files[0].sha256
    assert not hub.num_requests


def test_hub_sample_of_real_pages_equals_their_first_rows(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(shared_data / "web", repo="HuggingFaceFW/fineweb", revision=REVISION) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = SourceConfig(revision=REVISION, max_documents=1_500)
        [(got, raw)] = fetch_all(source, tmp_path)
        assert server.bytes_sent["sample/10BT/000_00000.parquet"] < 0.55 * 13_057_515
    origin = pq.read_table(shared_data / "web/sample/10BT/000_00000.parquet").slice(0, 1_500)
    assert pq.read_table(raw).equals(origin)
    assert pq.ParquetFile(raw).metadata.row_group(0).num_rows == 1_000
    assert got.num_rows == 1_500
