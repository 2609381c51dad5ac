"""Typed outputs: what a manifest holds, and what is read of it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from model.config.outputs import TrainModelFacts
from model.core.artifact import MANIFEST_NAME, Derivation, Manifest
from model.core.errors import ArtifactError
from model.core.outputs import DropCounts, Facts, OpenCounts, Outputs
from model.core.store import ArtifactStore, Work


class FileFacts(Facts):
    file: str
    score: float | None = None
    best: float | None = None


class FileOutputs(Outputs[DropCounts, FileFacts], stage="files"):
    @property
    def part(self) -> Path:
        return self.directory / "part.txt"


class TaskCounts(OpenCounts):
    EXTRAS_FIRST = True
    total: int


COUNTS = DropCounts(num_in=5, num_kept=2, **{"too_short": 3, "too_long": 0})


def made(store: ArtifactStore, facts: FileFacts, *, name: str = "a") -> Manifest:
    def body(work: Work) -> None:
        FileOutputs(work.path).part.write_text("text")
        FileOutputs.record(work, COUNTS, facts)

    return store.build(Derivation(stage="files", name=name, version=1), body)


def changed(store: ArtifactStore, manifest: Manifest, **facts: object) -> FileOutputs:
    """Return the outputs with facts that other code recorded."""
    outputs = FileOutputs.of(store, manifest.artifact)
    plain = json.loads((outputs.directory / MANIFEST_NAME).read_bytes())
    (outputs.directory / MANIFEST_NAME).write_text(json.dumps(plain | {"facts": facts}))
    return outputs


def test_manifest_holds_what_was_set_in_the_order_of_the_fields(tmp_path: Path) -> None:
    manifest = made(ArtifactStore(tmp_path), FileFacts(best=None, file="x"))
    stored = json.loads((tmp_path / manifest.artifact.relative_path / MANIFEST_NAME).read_bytes())
    assert list(stored["counts"].items()) == [
        ("num_in", 5), ("num_kept", 2), ("too_short", 3), ("too_long", 0),
    ]  # fmt: skip
    assert list(stored["facts"].items()) == [("file", "x"), ("best", None)]


def test_open_names_come_first_where_they_always_did() -> None:
    assert list(TaskCounts(total=3, **{"piqa": 1, "arc": 2}).plain()) == ["piqa", "arc", "total"]


def test_facts_of_a_training_are_scores_then_environment() -> None:
    names = list(TrainModelFacts.model_fields)
    assert names[0] == "validation_loss"
    assert names.index("extended_from") + 1 == names.index("num_steps")
    assert names[-1] == "epochs"


def test_outputs_read_again_equal_what_was_recorded(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    facts = FileFacts(file="x", score=0.5)
    outputs = FileOutputs.of(store, made(store, facts).artifact)
    assert (outputs.counts, outputs.facts) == (COUNTS, facts)
    assert outputs.counts.dropped == {"too_short": 3, "too_long": 0}
    assert outputs.part.read_text() == "text"


def test_recording_an_unknown_or_missing_name_is_an_error() -> None:
    with pytest.raises(ValidationError, match="socre"):
        FileFacts(file="x", socre=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="file"):
        FileFacts(score=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="too_short"):
        DropCounts(num_in=1, num_kept=0, **{"too_short": "one"})  # type: ignore[arg-type]


def test_facts_that_a_stage_does_not_record_any_more_are_ignored(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    outputs = changed(store, made(store, FileFacts(file="x")), file="y", gone=1)
    assert outputs.facts == FileFacts(file="y")


def test_facts_of_another_form_are_an_error_that_names_field_and_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    outputs = changed(store, made(store, FileFacts(file="x")), score="high")
    with pytest.raises(
        ArtifactError, match="facts of a manifest are not those that files"
    ) as error:
        _ = outputs.facts
    assert "FileFacts" in str(error.value.expected)
    assert "file: Field required" in str(error.value.found)
    assert str(error.value.where).startswith("files/a-")
    assert error.value.fix


def test_stage_of_an_artifact_decides_whose_outputs_it_has(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first, second = (made(store, FileFacts(file=name), name=name) for name in "ab")
    other = store.build(Derivation(stage="other", name="c", version=1), lambda _work: None)
    assert FileOutputs.made(first.artifact)
    assert not FileOutputs.made(other)
    assert FileOutputs.among([other, second, first]) == [second, first]
    assert FileOutputs.manifests(store) == [first, second]
    with pytest.raises(AssertionError, match="no artifact of files"):
        FileOutputs.of(store, other.artifact)
