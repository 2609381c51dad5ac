"""The store: a manifest is the cache, work survives its maker, one process makes a thing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.core.artifact import Derivation
from model.core.errors import ArtifactError, DiskSpaceError, TamperedArtifactError
from model.core.store import ArtifactStore, Work, read_manifest

ROOT = Path(__file__).parents[3]


def derivation(name: str = "a", **changes: object) -> Derivation:
    return Derivation.model_validate({"stage": "s", "name": name, "version": 1} | changes)


def writes(text: str) -> Callable[[Work], None]:
    def body(work: Work) -> None:
        (work.path / "out.txt").write_text(text)
        work.counts = {"lines": 1}

    return body


def refuses(work: Work) -> None:
    raise AssertionError(f"{work.path} must not be made again")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def test_build_worked_example_leaves_manifest_and_file(store: ArtifactStore) -> None:
    manifest = store.build(derivation(), writes("hello"))
    home = store.path(derivation().artifact)
    assert (home / "out.txt").read_text() == "hello"
    assert read_manifest(home) == manifest
    assert manifest.counts == {"lines": 1}
    assert [(entry.path, entry.num_bytes) for entry in manifest.files] == [("out.txt", 5)]
    assert manifest.origin.versions["python"]
    assert not list(store.root.glob("*/*.work"))


def test_build_of_complete_artifact_does_not_run_body(store: ArtifactStore) -> None:
    first = store.build(derivation(), writes("hello"))
    assert store.build(derivation(), refuses) == first


def test_status_after_root_moved_is_complete(store: ArtifactStore, tmp_path: Path) -> None:
    raw = store.build(derivation(), writes("x")).artifact
    consumer = derivation("b", inputs={"raw": [raw]})
    store.build(consumer, writes("y"))
    store.root.rename(tmp_path / "moved")
    moved = ArtifactStore(tmp_path / "moved")
    assert moved.status(consumer).state == "complete"


def test_status_of_shortened_file_is_damaged_and_built_again(store: ArtifactStore) -> None:
    store.build(derivation(), writes("hello"))
    (store.path(derivation().artifact) / "out.txt").write_text("he")
    assert store.status(derivation()).state == "damaged"
    store.build(derivation(), writes("hello"))
    assert store.status(derivation()).state == "complete"


def test_status_of_rebuilt_input_with_other_bytes_is_stale(store: ArtifactStore) -> None:
    raw = derivation("raw")
    consumer = derivation("out", inputs={"raw": [raw.artifact]})
    store.build(raw, writes("one"))
    store.build(consumer, writes("x"))
    (store.path(raw.artifact) / "manifest.json").unlink()
    store.build(raw, writes("two"))
    status = store.status(consumer)
    assert (status.state, status.why) == ("stale", "input s/raw was rebuilt to other bytes")


def test_status_of_rebuilt_input_with_equal_bytes_is_complete(store: ArtifactStore) -> None:
    raw = derivation("raw")
    consumer = derivation("out", inputs={"raw": [raw.artifact]})
    store.build(raw, writes("one"))
    store.build(consumer, writes("x"))
    (store.path(raw.artifact) / "manifest.json").unlink()
    assert store.status(consumer).state == "complete"
    store.build(raw, writes("one"))
    assert store.status(consumer).state == "complete"


def test_status_of_changed_setting_names_the_field(store: ArtifactStore) -> None:
    store.build(derivation(config={"min": 0.65}), writes("x"))
    assert store.status(derivation(config={"min": 0.8})).why == "s.min 0.65 -> 0.8"


def test_status_of_many_changes_names_the_first_few_in_a_short_line(store: ArtifactStore) -> None:
    long = {"a": "old " * 100} | {f"b{number}": 1 for number in range(20)}
    store.build(derivation(config=long), writes("x"))
    status = store.status(derivation(config={"a": "new " * 100}))
    assert len(status.reasons) == 21
    assert f"s.a {json.dumps('old ' * 100)} -> {json.dumps('new ' * 100)}" in status.reasons
    assert status.why.startswith('s.a "old old old')
    assert status.why.endswith(" and 18 more")
    assert len(status.why) < 200


def test_verify_of_flipped_byte_names_file_and_digests(store: ArtifactStore) -> None:
    manifest = store.build(derivation(), writes("hello"))
    path = store.path(derivation().artifact) / "out.txt"
    path.write_text("hellO")
    with pytest.raises(TamperedArtifactError, match=r"out\.txt.*sha256 mismatch") as caught:
        store.verify(derivation().artifact)
    assert caught.value.expected == manifest.files[0].sha256
    assert caught.value.where == path


def test_build_without_input_raises_artifact_error(store: ArtifactStore) -> None:
    consumer = derivation("out", inputs={"raw": [derivation("raw").artifact]})
    with pytest.raises(ArtifactError, match="no readable manifest"):
        store.build(consumer, writes("x"))


def test_build_that_fails_leaves_no_artifact_and_next_build_starts_clean(
    store: ArtifactStore,
) -> None:
    def fails(work: Work) -> None:
        (work.path / "half.txt").write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.build(derivation(), fails)
    assert store.status(derivation()).why == "an earlier run did not finish it"
    manifest = store.build(derivation(), writes("whole"))
    assert [entry.path for entry in manifest.files] == ["out.txt"]


def test_build_with_resume_keeps_what_a_failed_attempt_left(store: ArtifactStore) -> None:
    def first(work: Work) -> None:
        (work.path / "part-0").write_text("0")
        raise ValueError("broken")

    def second(work: Work) -> None:
        assert (work.path / "part-0").read_text() == "0"

    with pytest.raises(ValueError, match="broken"):
        store.build(derivation(), first, resume=True)
    assert [f.path for f in store.build(derivation(), second, resume=True).files] == ["part-0"]


def test_build_on_full_disk_raises_disk_space_error(store: ArtifactStore) -> None:
    def fills(work: Work) -> None:
        with Path("/dev/full").open("w") as handle:
            handle.write("x" * 100_000)

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(DiskSpaceError, match="filled up"):
        store.build(derivation(), fills)


def _count_builds(root: str, log: str) -> None:
    def body(work: Work) -> None:
        with Path(log).open("a") as handle:
            handle.write(f"{os.getpid()}\n")
        time.sleep(0.3)  # long enough for the other process to find the lock held
        (work.path / "out.txt").write_text("same")

    ArtifactStore(Path(root)).build(derivation(), body)


def test_build_in_two_processes_at_once_runs_one_body(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_count_builds, args=(str(tmp_path / "data"), str(log)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(log.read_text().splitlines()) == 1


KILLED = """
import sys, time
from pathlib import Path
from model.core.artifact import Derivation
from model.core.store import ArtifactStore
def body(work):
    (work.path / "part-0").write_text("0")
    print("writing", flush=True)
    time.sleep(60)
ArtifactStore(Path(sys.argv[1])).build(Derivation(stage="s", name="a", version=1), body)
"""


def test_build_killed_in_its_body_frees_the_lock_and_is_not_there(
    store: ArtifactStore,
) -> None:
    command = [sys.executable, "-c", KILLED, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        assert process.stdout.readline() == b"writing\n"
        assert store.is_locked(derivation().artifact)
        process.send_signal(signal.SIGKILL)
    assert not store.is_locked(derivation().artifact)
    assert store.status(derivation()).state == "missing"
    assert store.work_path(derivation().artifact).exists()
    store.build(derivation(), writes("whole"))
    assert store.status(derivation()).state == "complete"


def test_link_run_reads_through_links_and_survives_a_move(
    store: ArtifactStore, tmp_path: Path
) -> None:
    artifact = store.build(derivation(), writes("hello")).artifact
    store.link_run("demo-1", [artifact])
    store.root.rename(tmp_path / "moved")
    linked = tmp_path / "moved" / "runs" / "demo-1" / "s" / "a" / "out.txt"
    assert linked.read_text() == "hello"


def test_read_manifest_of_broken_json_raises_artifact_error(store: ArtifactStore) -> None:
    store.build(derivation(), writes("hello"))
    path = store.path(derivation().artifact) / "manifest.json"
    path.write_text(json.dumps({"half": 1}))
    with pytest.raises(ArtifactError, match="no readable manifest"):
        read_manifest(path.parent)
    assert store.status(derivation()).state == "damaged"
