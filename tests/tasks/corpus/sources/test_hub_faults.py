"""Faults between a hub and the disk, one test each, on a server with faults on demand."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from model.core.errors import (
    CorruptDownloadError,
    DiskSpaceError,
    DownloadError,
    SourceError,
    TransientDownloadError,
)
from model.core.files import file_sha256
from tasks.corpus.sources import hub_files
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS, MAX_BACKOFF_SECONDS, HubFile
from tasks.corpus.sources.hub_files import SPACE_MARGIN_BYTES, fetch_verified
from tasks.corpus.sources.raw_file import SourceFile
from tasks.corpus.sources.source_files import FetchedFile, fetch_file, list_files, resolve_revision
from tests.support.hub_pages import REPO, REVISION, hub_environment, hub_source, pages_hub
from tests.support.hub_server import Fault, HubServer
from tests.support.source_files import make_rows, write_parquet

PATH = "data/a.parquet"
GATED = (403, {"X-Error-Code": "GatedRepo"})


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    with hub_environment(monkeypatch) as waits:
        yield waits


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with pages_hub(tmp_path / "repository", monkeypatch) as server:
        yield server


@pytest.fixture
def got(tmp_path: Path) -> Path:
    (tmp_path / "got").mkdir()
    return tmp_path / "got"


def listed(hub: HubServer, tmp_path: Path, *, take_rows: int | None = None) -> SourceFile:
    source = hub_source(max_documents=take_rows)
    file = list_files(source, data_seed=1, cache=tmp_path / "cache")[0]
    hub.reset_counts()
    return file


def fetch(file: SourceFile, destination: Path) -> FetchedFile:
    return fetch_file(hub_source(), file, data_seed=1, destination=destination)


def partial_bytes(destination: Path) -> int:
    return sum(path.stat().st_size for path in (destination / ".download").glob("*.partial"))


def assert_whole(hub: HubServer, got: Path) -> None:
    assert (got / "raw.parquet").read_bytes() == (hub.root / PATH).read_bytes()
    assert [path.name for path in got.rglob("*")] == ["raw.parquet"]


def num_bytes(hub: HubServer) -> int:
    return (hub.root / PATH).stat().st_size


@pytest.mark.parametrize(
    ("fault", "take_rows", "kind", "words"),
    [
        (401, None, DownloadError, r"does not show it[\s\S]*HF_TOKEN \(now unset\)"),
        (403, None, DownloadError, r"forbids[\s\S]*HF_TOKEN"),
        (GATED, None, DownloadError, r"gated[\s\S]*accept its conditions[\s\S]*HF_TOKEN"),
        (404, None, DownloadError, r"status 404[\s\S]*data/a\.parquet"),
        (503, None, TransientDownloadError, r"503"),
        (429, None, TransientDownloadError, r"429"),
        ("truncate", None, TransientDownloadError, r"closed connection"),
        (403, 250, DownloadError, r"forbids[\s\S]*HF_TOKEN"),
        (503, 250, TransientDownloadError, r"503"),
        ("truncate", 250, TransientDownloadError, r"closed connection"),
        ("short", None, CorruptDownloadError, r"another length[\s\S]*found: [\d,]+ bytes"),
        ("long", None, CorruptDownloadError, r"another length[\s\S]*found: [\d,]+ bytes"),
        ("short", 250, DownloadError, r"found: status 206, bytes 0-\d+"),
        ("no-range", 250, DownloadError, r"status 206[\s\S]*status 200"),
    ],
)
def test_permanent_fault_raises_the_error_that_says_whether_to_retry(
    hub: HubServer,
    tmp_path: Path,
    got: Path,
    fault: Fault,
    take_rows: int | None,
    kind: type[DownloadError],
    words: str,
) -> None:
    file = listed(hub, tmp_path, take_rows=take_rows)
    hub.faults[f"GET {PATH}"] = fault
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(file, got)
    assert type(caught.value) is kind
    assert f"{hub.endpoint}/datasets/{REPO}/resolve/{REVISION}/{PATH}" in str(caught.value)
    assert not (got / "raw.parquet").exists()


def test_bodies_cut_off_repeatedly_are_resumed_not_restarted(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["truncate"] * 2 * MAX_ATTEMPTS  # each brings half of what is missing
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.bytes_sent[PATH] == num_bytes(hub)
    assert hub.num_requests[f"GET {PATH}"] == 2 * MAX_ATTEMPTS + 1


def test_body_without_length_that_ends_early_is_resumed(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["no-length"]
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.num_requests[f"GET {PATH}"] == 2


def test_server_without_ranges_sends_the_file_again_from_its_start(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["truncate", "no-range"]
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.bytes_sent[PATH] == num_bytes(hub) // 2 + num_bytes(hub)


def test_stalled_body_is_resumed_after_the_timeout(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["stall"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.bytes_sent[PATH] == num_bytes(hub)


def test_503_on_get_is_retried_with_exponential_backoff_and_jitter(
    hub: HubServer, tmp_path: Path, got: Path, pauses: list[float]
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = [503] * (MAX_ATTEMPTS - 1)
    fetch(file, got)
    assert_whole(hub, got)
    assert len(pauses) == MAX_ATTEMPTS - 1
    for number, pause in enumerate(pauses):
        assert 2**number <= pause <= 2 * min(2**number, MAX_BACKOFF_SECONDS)
    assert len({pause / 2**number for number, pause in enumerate(pauses)}) == MAX_ATTEMPTS - 1


def test_503_on_head_does_not_matter_as_none_is_sent(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[f"HEAD {PATH}"] = 503
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.num_requests == {f"GET {PATH}": 1}


@pytest.mark.parametrize("take_rows", [None, 250])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"RateLimit": '"resolvers";r=0;t=243'}, 243)],
)
def test_429_waits_as_long_as_the_hub_asks(
    hub: HubServer,
    tmp_path: Path,
    got: Path,
    pauses: list[float],
    take_rows: int | None,
    headers: dict[str, str],
    seconds: int,
) -> None:
    file = listed(hub, tmp_path, take_rows=take_rows)
    hub.faults[PATH] = [(429, headers)]
    fetch(file, got)
    [pause] = pauses
    assert seconds <= pause <= seconds + 1


def test_429_with_retry_after_an_hour_fails_at_once(
    hub: HubServer, tmp_path: Path, got: Path, pauses: list[float]
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = (429, {"Retry-After": "3600"})
    with pytest.raises(TransientDownloadError, match="429"):
        fetch(file, got)
    assert (pauses, hub.num_requests[f"GET {PATH}"]) == ([], 1)


def test_503_on_listing_is_retried(hub: HubServer, tmp_path: Path, pauses: list[float]) -> None:
    hub.faults["api/revision"] = [503, (429, {"Retry-After": "3"})]
    assert resolve_revision(hub_source(revision="main")).revision == REVISION
    assert len(pauses) == 2
    hub.faults["api/tree"] = [503]
    assert len(list_files(hub_source(), data_seed=1, cache=tmp_path)) == 2


def test_corrupt_body_is_deleted_and_fetched_once_more(
    hub: HubServer, tmp_path: Path, got: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["corrupt"]
    with caplog.at_level(logging.WARNING, logger="tasks"):
        fetch(file, got)
    assert "thrown away: fetched once more" in caplog.text
    assert_whole(hub, got)
    assert hub.bytes_sent[PATH] == 2 * num_bytes(hub)


def test_corrupt_body_twice_raises_naming_both_digests(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = "corrupt"
    with pytest.raises(CorruptDownloadError, match="other bytes than it promised") as caught:
        fetch(file, got)
    body = bytearray((hub.root / PATH).read_bytes())
    body[len(body) // 2] ^= 0xFF
    damaged = tmp_path / "damaged"
    damaged.write_bytes(body)
    assert f"sha256 {file.sha256}" in str(caught.value.expected)
    assert f"sha256 {file_sha256(damaged)}" in str(caught.value.found)
    assert (hub.num_requests[f"GET {PATH}"], partial_bytes(got)) == (2, 0)


def test_damaged_copy_in_the_users_hub_cache_is_left_alone_and_not_used(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_cache = str(tmp_path / "hub cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", user_cache)
    file = listed(hub, tmp_path)
    asked = {"repo_type": "dataset", "revision": REVISION, "endpoint": hub.endpoint}
    cached = Path(huggingface_hub.hf_hub_download(REPO, PATH, cache_dir=user_cache, **asked))
    cached.write_bytes(b"\0" * 500)
    fetch(file, got)
    assert_whole(hub, got)
    assert cached.read_bytes() == b"\0" * 500


def test_partial_file_of_other_bytes_is_detected_and_fetched_again(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    file = listed(hub, tmp_path)
    hub.faults[PATH] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        fetch(file, got)
    [partial] = (got / ".download").iterdir()
    partial.write_bytes(b"\0" * partial.stat().st_size)  # as after a power cut
    fetch(file, got)
    assert_whole(hub, got)


def test_file_of_the_right_digest_that_is_not_parquet_is_broken_on_the_hub(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    (hub.root / PATH).write_bytes(b"PAR1" + b"\0" * 5_000)
    file = listed(hub, tmp_path)
    with pytest.raises(SourceError, match="broken on the hub itself") as caught:
        fetch(file, got)
    assert type(caught.value) is SourceError
    assert "source.files" in str(caught.value.fix)
    assert not list(got.iterdir())


def test_token_stays_with_the_hub_when_its_store_sends_the_bytes(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_test"
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    file = listed(hub, tmp_path)
    hub.faults[PATH] = "redirect"
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.num_requests[f"GET {PATH}"] == 2


def test_branch_that_moves_after_listing_changes_neither_bytes_nor_partial(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    branch = hub_source(revision="main")
    before = list_files(branch, data_seed=1, cache=tmp_path / "cache")[0]
    old_root = hub.root
    hub.faults[PATH] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        fetch_file(branch, before, data_seed=1, destination=got)
    write_parquet(tmp_path / "moved" / PATH, make_rows(900))
    hub.move_branch("f" * 40, tmp_path / "moved")
    fetch_file(branch, before, data_seed=1, destination=got)
    assert (got / "raw.parquet").read_bytes() == (old_root / PATH).read_bytes()
    after = list_files(branch, data_seed=1, cache=tmp_path / "cache")[0]
    assert after.digest == f"{'f' * 40}:{PATH}"
    fetch_file(branch, after, data_seed=1, destination=got)
    assert_whole(hub, got)


def test_partial_of_one_file_without_digest_is_not_resumed_for_another(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    paths = ["data/a.parquet", "data/b.parquet"]
    one, other = (
        HubFile(
            repo=REPO,
            revision=REVISION,
            path=path,
            num_bytes=(hub.root / path).stat().st_size,
            sha256=None,
        )
        for path in paths
    )
    hub.faults[one.path] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        fetch_verified(one, got)
    path, _ = fetch_verified(other, got)
    assert path.read_bytes() == (hub.root / other.path).read_bytes()


def test_offline_without_the_file_says_so_and_asks_nobody(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(hub, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE \(now 1\)") as caught:
        fetch(file, got)
    assert type(caught.value) is DownloadError
    with pytest.raises(DownloadError, match=r"source.revision to a commit"):
        resolve_revision(hub_source(revision="main"))
    assert not hub.num_requests


def test_orphans_of_other_downloads_are_swept(hub: HubServer, tmp_path: Path, got: Path) -> None:
    file = listed(hub, tmp_path)
    (got / ".download").mkdir()
    (got / ".download/.cache").mkdir()
    for name in ("0123.partial", "cached.parquet", ".cache/x.uuid.incomplete"):
        (got / ".download" / name).write_bytes(b"left by a kill")
    hub.faults[PATH] = 403
    with pytest.raises(DownloadError):
        fetch(file, got)
    assert not list((got / ".download").iterdir())


def test_disk_that_cannot_hold_the_file_is_refused_before_any_request(
    hub: HubServer, tmp_path: Path, got: Path
) -> None:
    huge = listed(hub, tmp_path).model_copy(update={"num_bytes": 2**60})
    with pytest.raises(DiskSpaceError, match=f"{2**60 + SPACE_MARGIN_BYTES:,} bytes free"):
        fetch(huge, got)
    assert not hub.num_requests


def test_disk_full_in_the_middle_keeps_what_arrived(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(hub, tmp_path)
    limit = num_bytes(hub) // 3

    def write_until_full(sink: io.FileIO, chunk: bytes) -> None:
        room = limit - sink.tell()
        os.write(sink.fileno(), chunk[:room])
        if len(chunk) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(hub_files, "_write", write_until_full)
        with pytest.raises(DiskSpaceError, match=r"what arrived is kept") as caught:
            fetch(file, got)
    assert f"after {limit:,} bytes" in str(caught.value.found)
    assert str(caught.value.where).startswith(f"{got}/.download/")
    assert partial_bytes(got) == limit
    hub.reset_counts()
    fetch(file, got)
    assert_whole(hub, got)
    assert hub.bytes_sent[PATH] == num_bytes(hub) - limit


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts a small disk: root"
)
def test_disk_that_others_fill_meanwhile_is_named_and_the_rest_fetched_later(
    hub: HubServer, tmp_path: Path, got: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(hub, tmp_path)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(got)], capture_output=True
    )
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    monkeypatch.setattr("tasks.corpus.sources.hub_files.SPACE_MARGIN_BYTES", 0)
    real_download = hub_files.download

    def fill_then_download(*arguments: object) -> None:
        with (got / "of others").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, 4 * 2**20 - 32_768)
        real_download(*arguments)  # type: ignore[arg-type]

    try:
        with monkeypatch.context() as patch:
            patch.setattr(hub_files, "download", fill_then_download)
            with pytest.raises(DiskSpaceError, match="No space left on device"):
                fetch(file, got)
        assert 0 < partial_bytes(got) <= 32_768
        (got / "of others").unlink()
        fetch(file, got)
        assert_whole(hub, got)
    finally:
        subprocess.run(["umount", str(got)], check=True)
