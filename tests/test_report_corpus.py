"""Stages report_corpus and publish_corpus: what they take from manifests, in a whole walk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from flows.overrides import resolve
from flows.presets import PublishConfig
from flows.publish import publish_dataset
from model.artifact import Artifact, Manifest
from model.errors import ArtifactError
from model.store import ArtifactStore, Work
from tasks.config import CardConfig
from tasks.funnel import funnel
from tasks.pipeline import Pipeline
from tasks.publish_corpus import PublishCorpus, dataset_folder, publish_corpus
from tasks.report_corpus import (
    known_numbers,
    page_path,
    read_corpus_report,
    report_corpus,
    report_inputs,
)
from tasks.stage import Share
from tests.html_check import read_page
from tests.small_pipeline import make, make_small_pipeline


def build_everything(root: Path) -> dict[str, Manifest]:
    """Make every artifact of a small publish flow without Prefect; return the last by stage."""
    config = resolve(
        "demo",
        kind=PublishConfig,
        source={"demo_documents": 600, "demo_shards": 2},
        validation={"num_documents": 20},
        tokenizer={"vocab_size": 400, "sample_bytes": 100_000},
        card={"name": "Stories"},
    )
    pipeline = Pipeline(ArtifactStore(root), config.run)
    publish_dataset(pipeline, config)
    made = {}
    for step in pipeline.steps.values():
        share = Share(threads=1, memory_bytes=500_000_000)
        manifest = pipeline.store.build(
            step.derivation,
            lambda work, step=step, share=share: step.stage.build(work, step.config, share),
        )
        made[step.stage.name] = manifest
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def made(root: Path) -> dict[str, Manifest]:
    return build_everything(root)


def test_report_corpus_says_what_the_manifests_say(root: Path, made: dict[str, Manifest]) -> None:
    store = ArtifactStore(root)
    page = page_path(made["report_corpus"].artifact, store)
    report = read_corpus_report(page.with_name("report.json"))
    manifests = store.manifests()
    found = funnel(manifests)
    assert [line.model_dump() for line in report.funnel] == found.as_rows()
    assert {loss.reason: loss.documents for loss in report.losses} == {
        **{reason: count for reason, count in found.rejected.items() if count},
        **{kind: count for kind, count in found.duplicates.items() if count},
    }
    assert report.tokens.training == found.num_training_tokens
    assert report.tokens.vocabulary == 400
    assert 1 < (report.tokens.bytes_per_token or 0) < 10
    assert report.chars.summary_before.unknown == found.rejected["null_text"]
    assert report.score.summary_after.documents == found.num_training
    disk = {item.stage: item.bytes for item in report.disk}
    assert disk["download"] == sum(item.num_bytes for item in store.manifests("download"))
    assert list(disk) == list(made)[:-2]
    assert report.source == {"kind": "demo"}
    assert (report.edits, report.contamination) == ({}, None)
    assert "600" in read_page(page.read_text()).text


def test_publish_corpus_holds_the_training_documents(
    root: Path, made: dict[str, Manifest], tmp_path: Path
) -> None:
    published = made["publish_corpus"]
    folder = dataset_folder(ArtifactStore(root).path(published.artifact))
    found = load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert (
        len(found) == published.counts["num_docs"] == made["duplicate_clusters"].counts["num_kept"]
    )
    assert published.counts["num_validation"] == 20
    card = (folder / "README.md").read_text()
    assert "# Stories" in card
    assert "| in the source | 600 | 100.0 % |" in card


def test_report_and_published_corpus_made_elsewhere_have_the_same_bytes(
    made: dict[str, Manifest], tmp_path: Path
) -> None:
    again = build_everything(tmp_path / "elsewhere")
    for stage in ("report_corpus", "publish_corpus"):
        assert again[stage].content_digest == made[stage].content_digest
        assert again[stage].artifact.key == made[stage].artifact.key


def test_publishing_after_an_input_was_rebuilt_starts_anew(
    root: Path, made: dict[str, Manifest], tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    store = ArtifactStore(tmp_path)
    derivation = made["publish_corpus"].derivation
    work = Work(store.work_path(derivation.artifact), derivation, store)
    store.path(derivation.artifact).rename(work.path)
    (data,) = (work.path / "dataset" / "data").glob("train-00000-*")
    config = PublishCorpus(card=CardConfig(name="Stories"))
    share = Share(threads=1, memory_bytes=500_000_000)
    publish_corpus.build(work, config, share)
    expected, written_at = data.read_bytes(), data.stat().st_mtime_ns
    publish_corpus.build(work, config, share)
    assert data.stat().st_mtime_ns == written_at
    note = work.path / "consumed.json"
    note.write_text(note.read_text().replace(made["duplicate_clusters"].content_digest, "other"))
    publish_corpus.build(work, config, share)
    assert data.stat().st_mtime_ns != written_at
    assert data.read_bytes() == expected


def small_manifests(tmp_path: Path) -> dict[str, Manifest]:
    small = make_small_pipeline(tmp_path)
    more = {
        "train_tokenizer": make(
            small.store, "train_tokenizer", "more", facts={"vocab_size": 512, "fingerprint": "f"}
        ),
        "tokenise": make(
            small.store,
            "tokenise",
            "part-0",
            counts={"num_docs": 10, "num_tokens": 110, "num_bytes": 425},
        ),
    }
    return small.manifests | more


def test_known_numbers_sum_facts_over_artifacts(tmp_path: Path) -> None:
    manifests = small_manifests(tmp_path)
    for name, edits in (("filter", {"policy_line": 3}), ("filter-1", {"policy_line": 2, "x": 0})):
        facts = {"edits": edits, "personal_data": {"email": 1}}
        manifests[name] = manifests[name].model_copy(update={"facts": facts})
    known = known_numbers(list(manifests.values()))
    assert known.counts == {"edits": {"policy_line": 5, "x": 0}, "personal_data": {"email": 2}}
    assert known.tokens.bytes_per_token == 4.25  # without the mark before each document
    assert [(loss.reason, loss.documents) for loss in known.losses] == [
        ("too_short", 9), ("language", 11), ("exact", 6), ("normalised", 2), ("validation", 5),
    ]  # fmt: skip


def test_known_numbers_without_a_stage_name_it(tmp_path: Path) -> None:
    manifests = small_manifests(tmp_path)
    del manifests["shards-training"]
    with pytest.raises(ArtifactError, match="a manifest of write_shards/training"):
        known_numbers(list(manifests.values()))


def test_report_key_depends_on_every_input(tmp_path: Path) -> None:
    artifacts = [item.artifact for item in small_manifests(tmp_path).values()]
    config = resolve("demo", kind=PublishConfig).report

    def key(found: list[Artifact]) -> str:
        return report_corpus.derive("corpus", config=config, inputs=report_inputs(found)).key

    assert key(artifacts) == key(artifacts)
    assert (
        len({key(artifacts[:count]) for count in range(len(artifacts) + 1)}) == len(artifacts) + 1
    )
