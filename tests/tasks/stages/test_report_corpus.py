"""Stages report_corpus and publish_corpus: what they take from manifests, in a whole walk."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from flows.publish import publish_dataset
from flows.settings.config import PublishConfig
from flows.settings.resolve import ResolvedRun
from model.core.artifact import Artifact, Manifest
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore, Work
from tasks.config.run import CardConfig
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.engine.pipeline import Pipeline
from tasks.engine.stage import ResourceShare
from tasks.reporting.funnel import funnel
from tasks.stages.download import DownloadCounts, DownloadOutputs
from tasks.stages.filter_documents import FilterDocumentsFacts
from tasks.stages.publish_corpus import (
    PublishCorpus,
    PublishCorpusOutputs,
    publish_corpus,
    publish_inputs,
)
from tasks.stages.report_corpus import (
    ReportCorpusOutputs,
    known_numbers,
    read_corpus_report,
    report_corpus,
    report_inputs,
)
from tasks.stages.tokenise import TokeniseCounts, TokeniseOutputs
from tasks.stages.train_tokenizer import TrainTokenizerFacts, TrainTokenizerOutputs
from tests.support.html_check import read_page
from tests.support.prepared_corpus import document
from tests.support.settings import resolved_config
from tests.support.small_pipeline import filled, make, make_small_pipeline

SMALL = {
    "source": {"kind": "demo", "demo_documents": 600, "demo_shards": 2},
    "validation": {"num_documents": 20},
    "tokenizer": {"vocab_size": 400, "sample_bytes": 100_000},
    "card": {"name": "Stories"},
}
ITEM = "which of the seven old bridges over the wide river was built before all of the others"


def build_everything(root: Path, **settings: dict[str, Any]) -> dict[str, Manifest]:
    """Make every artifact of a small publish flow without Prefect; return the last by stage."""
    config = resolved_config("demo", kind=PublishConfig, **(SMALL | settings))
    pipeline = Pipeline(ArtifactStore(root), config.run)
    publish_dataset(pipeline, ResolvedRun(config))
    made = {}
    for step in pipeline.steps.values():
        share = ResourceShare(threads=1, memory_bytes=500_000_000)
        manifest = pipeline.store.build(
            step.derivation,
            lambda work, step=step, share=share: step.stage.build(work, step.config, share),
        )
        made[step.stage.name] = manifest
    return made


def write_texts(path: Path, *, num: int, seed: int, is_labelled: bool = False) -> Path:
    """Write documents with an e-mail address each, the odd ones good; one holds ``ITEM``."""
    draw = random.Random(seed)
    kinds = ("buy cheap casino click free now bonus", "cell energy theory planet river acid orbit")
    texts = [
        " ".join(draw.choices(kinds[row % 2].split(), k=30)) + f" tom.smith{row}@mailhost.net"
        for row in range(num)
    ]
    texts[1] += f" {ITEM}"
    rows = [document(text, score=float(5 * (row % 2))) for row, text in enumerate(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    more = [pa.field("score", pa.float64())] if is_labelled else []
    table = pa.Table.from_pylist(rows, schema=pa.schema([*FINEWEB_SCHEMA, *more]))
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """Return root and manifests of a corpus made with everything that is off by default."""
    root = tmp_path_factory.mktemp("strict")
    for seed, name in enumerate("ab"):
        write_texts(root / "source" / f"{name}.parquet", num=120, seed=seed)
    labels = write_texts(root / "labels.parquet", num=400, seed=2, is_labelled=True)
    pq.write_table(pa.table({"text": [ITEM]}), root / "quiz.parquet")
    made = build_everything(
        root / "data",
        source={"kind": "local", "path": str(root / "source")},
        filter={"min_words": 3, "score_language": "never"},
        tokenizer={"vocab_size": 320},
        personal_data={"action": "mask"},
        decontamination={"sets": {"quiz": str(root / "quiz.parquet")}},
        quality_model={
            "select": "threshold", "labels": "local", "path": str(labels), "feature_bits": 12,
        },
    )  # fmt: skip
    return root / "data", made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def made(root: Path) -> dict[str, Manifest]:
    return build_everything(root)


def test_report_corpus_says_what_the_manifests_say(root: Path, made: dict[str, Manifest]) -> None:
    store = ArtifactStore(root)
    page = ReportCorpusOutputs.of(store, made["report_corpus"].artifact).page
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
    folder = PublishCorpusOutputs.of(ArtifactStore(root), published.artifact).dataset
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


def test_publishing_after_an_input_was_rebuilt_starts_again(
    root: Path, made: dict[str, Manifest], tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    store = ArtifactStore(tmp_path)
    derivation = made["publish_corpus"].derivation
    work = Work(store.work_path(derivation.artifact), derivation, store)
    store.path(derivation.artifact).rename(work.path)
    (data,) = (work.path / "dataset" / "data").glob("train-00000-*")
    config = PublishCorpus(card=CardConfig(name="Stories"))
    share = ResourceShare(threads=1, memory_bytes=500_000_000)
    publish_corpus.build(work, config, share)
    expected, written_at = data.read_bytes(), data.stat().st_mtime_ns
    publish_corpus.build(work, config, share)
    assert data.stat().st_mtime_ns == written_at
    note = work.path / "consumed.json"
    note.write_text(note.read_text().replace(made["duplicate_clusters"].content_digest, "other"))
    publish_corpus.build(work, config, share)
    assert data.stat().st_mtime_ns != written_at
    assert data.read_bytes() == expected


def test_report_and_publisher_leave_out_what_the_quality_model_removed(
    strict: tuple[Path, dict[str, Manifest]],
) -> None:
    store, made = ArtifactStore(strict[0]), strict[1]
    found = funnel(store.manifests())
    assert found.low_quality["low_quality"] > 20
    page = ReportCorpusOutputs.of(store, made["report_corpus"].artifact).page
    report = read_corpus_report(page.with_name("report.json"))
    assert report.score.summary_after.documents == found.num_training
    losses = {(loss.stage, loss.reason): loss.documents for loss in report.losses}
    assert losses["select_quality", "low_quality"] == found.low_quality["low_quality"]
    assert sum(losses.values()) == found.num_source - found.num_training

    published = made["publish_corpus"]
    assert published.counts["num_docs"] == found.num_training
    folder = PublishCorpusOutputs.of(store, published.artifact).dataset
    texts = [
        text
        for path in sorted((folder / "data").iterdir())
        for text in pq.read_table(path)["text"].to_pylist()
    ]
    assert len(texts) == found.num_training + 20
    assert all("email@example.com" in text and "tom.smith" not in text for text in texts)
    lines = re.findall(r"\| (.+) \| (-?\d+) \| .+ % \|", (folder / "README.md").read_text())
    counted = {what: int(count) for what, count in lines}
    assert counted.pop("training") == sum(counted.values()) == found.num_training
    assert counted["text of evaluation sets"] == -2


def test_card_lists_the_source_as_a_whole_and_the_settings_of_every_stage(
    strict: tuple[Path, dict[str, Manifest]],
) -> None:
    store, made = ArtifactStore(strict[0]), strict[1]
    card = PublishCorpusOutputs.of(store, made["publish_corpus"].artifact).card
    _, source, *_, settings, _ = card.read_text().split("\n## ")
    assert source == 'Source\n\n- `kind`: `"local"`\n- `files`: `2`\n'
    digest = made["train_quality_model"].derivation.config["files"][0]["digest"]
    for line in (
        "- `filter.min_words`: `3`",
        '- `personal_data.action`: `"mask"`',
        "- `dedup.min_jaccard`: `0.8`",
        "- `decontamination.ngram_words`: `13`",
        '- `quality_model.select`: `"threshold"`',
        "- `quality_model.min_score`: `0.5`",
        "- `quality_model.min_good_label`: `3.0`",
        f'- `quality_model.labels`: `["{digest}"]`',
    ):
        assert line in settings.splitlines()
    assert '- `decontamination.sets`: `{"quiz": ["' in settings


def test_publish_key_depends_on_the_choice_by_quality(
    strict: tuple[Path, dict[str, Manifest]],
) -> None:
    artifacts = [item.artifact for item in strict[1].values()]
    others = [item for item in artifacts if item.stage != "select_quality"]
    config = PublishCorpus(card=CardConfig())

    def key(found: list[Artifact]) -> str:
        return publish_corpus.derive("dataset", config=config, inputs=publish_inputs(found)).key

    assert key(artifacts) == key(artifacts) != key(others)


def small_manifests(tmp_path: Path) -> dict[str, Manifest]:
    small = make_small_pipeline(tmp_path)
    more = {
        "train_tokenizer": make(
            small.store,
            TrainTokenizerOutputs,
            "more",
            facts=filled(TrainTokenizerFacts, vocab_size=512, fingerprint="f"),
        ),
        "tokenise": make(
            small.store,
            TokeniseOutputs,
            "part-0",
            counts=filled(TokeniseCounts, num_docs=10, num_tokens=110, num_bytes=425),
        ),
    }
    return small.manifests | more


def test_known_numbers_sum_facts_over_artifacts(tmp_path: Path) -> None:
    manifests = small_manifests(tmp_path)
    for name, edits in (("filter", {"policy_line": 3}), ("filter-1", {"policy_line": 2, "x": 0})):
        facts = filled(FilterDocumentsFacts, edits=edits, personal_data={"email": 1})
        manifests[name] = manifests[name].model_copy(update={"facts": facts.plain()})
    num_documents = DownloadOutputs.counts_of(manifests["download"]).num_documents
    counts = DownloadCounts(num_documents=num_documents, num_skipped_records=3).plain()
    manifests["download"] = manifests["download"].model_copy(update={"counts": counts})
    known = known_numbers(list(manifests.values()))
    assert known.skipped_records == 3
    assert (known.edits, known.personal_data) == ({"policy_line": 5, "x": 0}, {"email": 2})
    assert known.contamination is None
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
    config = resolved_config("demo", kind=PublishConfig).report

    def key(found: list[Artifact]) -> str:
        return report_corpus.derive("corpus", config=config, inputs=report_inputs(found)).key

    assert key(artifacts) == key(artifacts)
    assert (
        len({key(artifacts[:count]) for count in range(len(artifacts) + 1)}) == len(artifacts) + 1
    )
