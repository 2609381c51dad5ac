"""The store's command line: list, why, verify, prune, adopt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.core.artifact import Artifact, Derivation
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore, Work
from tasks.artifacts import adopt, find, list_artifacts, main, unused, verify, why


def make(store: ArtifactStore, stage: str, name: str, *inputs: Artifact) -> Artifact:
    def body(work: Work) -> None:
        (work.path / "out.txt").write_text(name)
        work.counts = {"num_docs": 1_234}

    derivation = Derivation(
        stage=stage, name=name, version=1, config={"min": 0.65}, inputs={"raw": inputs}
    )
    return store.build(derivation, body).artifact


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path / "data"))
    return ArtifactStore(tmp_path / "data")


def test_list_shows_path_and_counts(store: ArtifactStore) -> None:
    artifact = make(store, "filter", "a")
    text = list_artifacts(store)
    assert artifact.relative_path in text
    assert "num_docs 1,234" in text


def test_list_of_a_stage_that_is_not_there_names_those_that_are(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "filtre"]) == 2
    assert "an artifact of any stage" in capsys.readouterr().err
    make(store, "filter", "a")
    assert main(["list", "filtre"]) == 2
    assert "one of filter" in capsys.readouterr().err


def test_list_that_is_piped_or_on_a_terminal_names_all_of_an_artifact(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = make(store, "filter", "a_folder+with_a_long_name+" + "part-00000-of-00015" * 6)
    assert main(["list"]) == 0
    assert f" {artifact.relative_path} " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    column = "".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert artifact.relative_path in column


def test_why_shows_all_that_differs_from_the_artifact_before(store: ArtifactStore) -> None:
    old = [make(store, "download", f"old-{number}") for number in range(9)]
    new = [make(store, "download", f"new-{number}") for number in range(9)]
    first = make(store, "filter", "a", *old)
    second = make(store, "filter", "a", *new)
    assert "what differs" not in why(store, first.relative_path)
    text = why(store, second.relative_path)
    assert f"what differs from {first.relative_path}" in text
    for number, item in enumerate(new):
        assert f"  filter.input.raw.new-{number} unset -> {item.key[:12]}" in text.splitlines()


def test_why_shows_config_and_lineage_to_the_source(store: ArtifactStore) -> None:
    raw = make(store, "download", "a")
    part = make(store, "filter", "a", raw)
    tokens = make(store, "tokenise", "a", part)
    text = why(store, tokens.relative_path)
    assert "min = 0.65" in text
    assert f"  <- raw: {part.relative_path}" in text
    assert f"    <- raw: {raw.relative_path}" in text


def test_verify_reads_on_after_a_tampered_byte_and_ends_with_all_that_are_broken(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = make(store, "filter", "abc"), make(store, "raw", "xyz")
    names = {broken.relative_path, whole.relative_path}
    assert set(verify(store)) == {f"ok  {name}" for name in names}
    (store.path(broken) / "out.txt").write_text("abd")
    assert main(["verify"]) == 2
    shown = capsys.readouterr()
    assert f"ok  {whole.relative_path}" in shown.out
    assert f"BAD {broken.relative_path}" in shown.out
    assert "sha256 mismatch" in shown.out
    assert broken.relative_path in shown.err
    assert whole.relative_path not in shown.err


def test_prune_keeps_what_a_run_leads_to_and_deletes_only_when_told(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make(store, "download", "a")
    used = make(store, "filter", "a", raw)
    lost = make(store, "filter", "b")
    store.link_run("demo-1", [used])
    assert unused(store) == [store.path(lost)]
    assert main(["prune"]) == 0
    assert store.path(lost).exists()
    assert "nothing was deleted" in capsys.readouterr().out
    assert main(["prune", "--delete"]) == 0
    assert not store.path(lost).exists()
    assert main(["prune"]) == 0
    assert capsys.readouterr().out.endswith("everything is used: nothing to delete\n")
    assert store.path(used).exists()
    assert store.path(raw).exists()


def test_prune_says_in_its_help_what_it_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    said = capsys.readouterr().out
    for words in ("no run below", "failed", "runs/<run>", "--delete"):
        assert words in said


def test_prune_keeps_unfinished_work_that_a_run_waits_for(store: ArtifactStore) -> None:
    waiting = Derivation(stage="train_model", name="m", version=1)
    abandoned = Derivation(stage="train_model", name="n", version=1)
    for derivation in (waiting, abandoned):
        store.work_path(derivation.artifact).mkdir(parents=True)
    store.link_run("demo-1", [waiting.artifact])
    assert unused(store) == [store.work_path(abandoned.artifact)]
    with store.locked(abandoned.artifact):
        assert unused(store) == []


def test_adopt_of_copied_artifact_is_complete_here(store: ArtifactStore, tmp_path: Path) -> None:
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    artifact = make(elsewhere, "filter", "a")
    adopted = adopt(store, elsewhere.path(artifact))
    assert adopted.artifact == artifact
    assert store.verify(artifact) == adopted


def test_adopt_of_tampered_artifact_raises_and_takes_nothing(
    store: ArtifactStore, tmp_path: Path
) -> None:
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    artifact = make(elsewhere, "filter", "a")
    (elsewhere.path(artifact) / "out.txt").write_text("b")
    with pytest.raises(match="sha256 mismatch"):
        adopt(store, elsewhere.path(artifact))
    assert not store.path(artifact).exists()


def test_find_of_ambiguous_beginning_names_the_candidates(store: ArtifactStore) -> None:
    first, second = make(store, "filter", "a"), make(store, "filter", "b")
    with pytest.raises(ArtifactError, match="several artifacts begin") as caught:
        find(store, "filter/")
    assert first.relative_path in str(caught.value)
    assert second.relative_path in str(caught.value)
    shutil.rmtree(store.path(second))
    assert find(store, "filter/").artifact == first
