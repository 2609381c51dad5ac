"""The quality model: features, training, its measure, selection, and the stages end to end."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.utils import close_session
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from flows.prepare import prepare_corpus
from flows.settings.config import PrepareConfig
from flows.settings.overrides import all_optional
from model.core.artifact import Artifact
from model.core.errors import (
    ArtifactError,
    CorpusError,
    DownloadError,
    SourceError,
    SourceSchemaError,
    TransientDownloadError,
)
from model.core.store import ArtifactStore
from tasks.config.corpus import QualityModelConfig, RunConfig, SourceConfig
from tasks.corpus.classifier.labels import (
    LabelledDocuments,
    labelled_source,
    list_labelled_files,
    read_labelled,
)
from tasks.corpus.classifier.linear_model import (
    MAX_CHARS,
    Featurizer,
    QualityModel,
)
from tasks.corpus.classifier.selection import (
    SCORES_SCHEMA,
    domain_cap,
    score_file,
    select_documents,
)
from tasks.corpus.classifier.training import train_and_measure, train_quality_model
from tasks.corpus.duckdb_connection import Limits, fetch_one, read_sql
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS
from tasks.engine.pipeline import Pipeline
from tasks.engine.stage import Share, Stage
from tasks.reporting.funnel import funnel
from tasks.stages.duplicate_clusters import DuplicateClustersOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs
from tasks.stages.score_quality import ScoreQuality, ScoreQualityOutputs, score_quality
from tasks.stages.select_quality import (
    SelectQuality,
    SelectQualityCounts,
    SelectQualityOutputs,
    select_quality,
)
from tasks.stages.train_quality_model import TrainQualityModelOutputs, labelled_documents
from tasks.stages.train_quality_model import train_quality_model as training_stage
from tests.support.hub_server import HubServer
from tests.support.quality_labels import make_labelled, make_text
from tests.support.small_pipeline import make, make_small_pipeline

BITS = 14
SHARE = Share(threads=2, memory_bytes=500_000_000)


def local(path: Path, **settings) -> QualityModelConfig:
    values = {"select": "threshold", "labels": "local", "path": str(path), "feature_bits": BITS}
    return QualityModelConfig(**values | settings)


def labelled(path: Path, tmp_path: Path, **settings):
    config = local(path, **settings)
    source = labelled_source(config)
    files = list_labelled_files(source, cache=tmp_path / "cache")
    return read_labelled(source, files, config=config, seed=1, scratch=tmp_path)


def test_features_are_words_and_pairs_each_once():
    featurizer = Featurizer(24)
    assert len(featurizer.features("One two one two ONE")) == 2 + 2
    assert featurizer.features("One, two!").tolist() == featurizer.features("one two").tolist()
    a, b, both = (featurizer.features(text) for text in ("one", "two", "one two"))
    turned = featurizer.features("two one")
    assert set(a) | set(b) < set(both)
    assert len(set(both) & set(turned)) == 2
    assert featurizer.features("").tolist() == featurizer.features(" ?! ").tolist() == []
    long = "word " * (MAX_CHARS // 5)
    assert featurizer.features(long + "unseen").tolist() == featurizer.features(long).tolist()


@pytest.mark.parametrize("part", ["training", "heldout"])
def test_train_and_measure_a_part_of_one_kind_is_refused(part):
    features = np.arange(3, dtype=np.int32)
    is_heldout = np.arange(40) >= 20
    good = (np.arange(40) % 2 == 0) | (is_heldout == (part == "heldout"))
    found = LabelledDocuments([features] * 40, good, is_heldout)
    with pytest.raises(CorpusError, match="20 good ones of 20"):
        train_and_measure(found, config=QualityModelConfig(feature_bits=8), seed=1)


def test_train_and_measure_gives_the_share_of_pairs_in_order():
    chance = random.Random(2)
    good = np.array([number % 3 == 0 for number in range(400)])
    featurizer = Featurizer(BITS)
    documents = [featurizer.features(make_text(chance, good=bool(g), noise=1.3)) for g in good]
    is_heldout = np.arange(400) >= 300
    config = QualityModelConfig(feature_bits=BITS)
    measured = train_and_measure(
        LabelledDocuments(documents, good, is_heldout), config=config, seed=1
    )
    scores, good = measured.model.scores(documents[300:]), good[300:]
    pairs = list(product(scores[good], scores[~good]))
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert measured.auc == pytest.approx(expected)
    assert (measured.num_trained, measured.num_heldout, measured.num_good) == (300, 100, 134)


def test_train_ranks_unseen_texts_as_well_as_a_dense_newton_fit():
    chance = random.Random(3)
    good = np.array([number % 3 == 0 for number in range(900)])
    featurizer = Featurizer(8)
    texts = [make_text(chance, good=bool(label), noise=1.4) for label in good]
    documents = [featurizer.features(text) for text in texts]
    model = train_quality_model(documents[:600], good[:600], feature_bits=8, epochs=20, seed=1)
    ours = roc_auc_score(good[600:], model.scores(documents[600:]))
    dense = np.zeros((900, 257))
    for row, document in enumerate(documents):
        dense[row, document] = 1 / math.sqrt(len(document))
    dense[:, 256] = 1
    weights = newton_logistic(dense[:600], good[:600])
    reference = roc_auc_score(good[600:], dense[600:] @ weights)
    assert 0.7 < reference < 0.999
    assert ours > reference - 0.02


def newton_logistic(features, good, *, ridge=0.1):
    """Fit logistic regression with a ridge by Newton's method on dense features."""
    weights = np.zeros(features.shape[1])
    for _ in range(8):
        found = 1 / (1 + np.exp(-(features @ weights)))
        slope = features.T @ (found - good) + ridge * weights
        curve = (features.T * (found * (1 - found))) @ features + ridge * np.eye(len(weights))
        weights -= np.linalg.solve(curve, slope)
    return weights


def test_train_same_labels_give_equal_bytes_and_survive_a_round_trip(tmp_path):
    chance = random.Random(4)
    good = np.array([number % 2 == 0 for number in range(300)])
    featurizer = Featurizer(BITS)
    documents = [featurizer.features(make_text(chance, good=bool(label))) for label in good]
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        model = train_quality_model(documents, good, feature_bits=BITS, epochs=2, seed=7)
        model.save(tmp_path / name)
        kept.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert kept[0] == kept[1]
    again = QualityModel.load(tmp_path / "a")
    assert again.scores(documents).tolist() == model.scores(documents).tolist()
    assert again.scores([]).tolist() == []
    empty = again.scores([np.empty(0, np.int32)])
    assert empty.tolist() == [pytest.approx(1 / (1 + math.exp(-again.bias)))]
    other = train_quality_model(documents, good, feature_bits=BITS, epochs=2, seed=8)
    assert other.weights.tolist() != model.weights.tolist()


@pytest.mark.parametrize("damage", ["missing", "text", "size", "version"])
def test_load_damaged_model_raises_artifact_error(tmp_path, damage):
    QualityModel(np.zeros(1 << 8, np.float32), 0.5, 8).save(tmp_path)
    if damage == "missing":
        (tmp_path / "weights.npy").unlink()
    elif damage == "size":
        np.save(tmp_path / "weights.npy", np.zeros(7, np.float32))
    else:
        facts = '{"features": 99, "feature_bits": 8, "bias": 0}' if damage == "version" else "no"
        (tmp_path / "model.json").write_text(facts)
    with pytest.raises(ArtifactError, match=r"quality model cannot be read(.|\n)*train it again"):
        QualityModel.load(tmp_path)


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
    files = list_labelled_files(source, cache=tmp_path / "cache")
    make_labelled(path, count=21)
    with pytest.raises(SourceError, match="changed after it was listed"):
        read_labelled(source, files, config=config, seed=1, scratch=tmp_path)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.Example.org:8080/page?x=1", "example.org"),
        ("http://user:word@news.example.com./", "news.example.com"),
        ("https://WWW.example.org./", "example.org"),
        ("https://www.", None),
        ("https://example.net?q", "example.net"),
        ("", None),
        (None, None),
        ("no address", None),
        ("file:///home", None),
    ],
)
def test_domain_of_is_the_host_whoever_asks(url, domain, tmp_path):
    write_part(tmp_path, ["text"], file="f", urls=[url])
    QualityModel(np.zeros(1 << 8, np.float32), 0.5, 8).save(tmp_path)
    limits = Limits(memory_bytes=500_000_000, threads=1, spill_directory=tmp_path / "spill")
    score_file(tmp_path / "part.parquet", tmp_path, destination=tmp_path, limits=limits)
    assert pq.read_table(tmp_path / "scores.parquet")["domain"].to_pylist() == [domain]
    with limits.connect() as connection:
        connection.execute(read_sql("domain_of"))
        assert fetch_one(connection, "SELECT domain_of($url)", {"url": url}) == (domain,)


@settings(deadline=None)
@given(
    st.integers(0, 30),
    st.lists(st.integers(1, 40), max_size=12),
    st.floats(0.01, 0.99),
)
def test_domain_cap_is_the_largest_that_holds(num_free, sizes, max_frac):
    most = domain_cap(num_free, Counter(sizes), max_frac)

    def holds(cap):
        return cap <= max_frac * (num_free + sum(min(size, cap) for size in sizes))

    assert most == max(cap for cap in range(max([0, *sizes]) + 1) if holds(cap))


def write_scores(path: Path, rows) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    columns = zip(*rows, strict=True) if rows else [[]] * 5
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, SCORES_SCHEMA, strict=True)]
    pq.write_table(pa.table(arrays, schema=SCORES_SCHEMA), path / "scores.parquet")
    return path / "scores.parquet"


def write_removed(path: Path, rows) -> Path:
    files, numbers = [file for file, _ in rows], [row for _, row in rows]
    table = pa.table({"file": pa.array(files, pa.string()), "row": pa.array(numbers, pa.int64())})
    pq.write_table(table, path)
    return path


def choose(tmp_path, rows, *, removed=(), name="out", threads=2, **settings):
    by_file = {}
    for row in rows:
        by_file.setdefault(row[0], []).append(row)
    scores = [write_scores(tmp_path / name / file, found) for file, found in by_file.items()]
    gone = write_removed(tmp_path / name / "removed.parquet", list(removed))
    config = QualityModelConfig(**{"select": "threshold"} | settings)
    limits = Limits(memory_bytes=500_000_000, threads=threads, spill_directory=tmp_path / "spill")
    counts = select_documents(
        scores, [gone], config=config, destination=tmp_path / name, limits=limits
    )
    return counts, pq.read_table(tmp_path / name / "removed_quality.parquet").to_pylist()


ROWS = [
    ("a", 0, "x", "big.example", 0.9),
    ("a", 1, "x", "big.example", 0.8),
    ("a", 2, "x", "big.example", 0.7),
    ("a", 3, "x", None, 0.1),
    ("b", 0, "y", "small.example", 0.6),
    ("b", 1, "y", None, 0.5),
    ("b", 2, "y", "big.example", 0.95),
    ("b", 7, "y", "gone.example", 0.99),
]


def test_select_threshold_removes_what_scores_less(tmp_path):
    counts, removed = choose(tmp_path, ROWS, removed=[("b", 7)], min_score=0.65)
    assert [(row["file"], row["row"], row["reason"]) for row in removed] == [
        ("a", 3, "low_quality"), ("b", 0, "low_quality"), ("b", 1, "low_quality"),
    ]  # fmt: skip
    assert list(removed[0]) == ["file", "row", "id", "score", "reason"]
    assert (counts.num_in, counts.num_kept) == (7, 4)
    assert counts.num_removed == {"low_quality": 3, "domain_cap": 0}
    assert counts.domains_before == {"big.example": 4, "small.example": 1}
    assert counts.domains_after == {"big.example": 4}


def test_select_domain_cap_keeps_the_best_of_a_crowded_domain(tmp_path):
    counts, removed = choose(tmp_path, ROWS, removed=[("b", 7)], min_score=0.2, max_domain_frac=0.5)
    assert [(row["file"], row["row"], row["reason"]) for row in removed] == [
        ("a", 1, "domain_cap"), ("a", 2, "domain_cap"), ("a", 3, "low_quality"),
    ]  # fmt: skip
    assert (counts.most_of_domain, counts.num_kept) == (2, 4)
    assert counts.domains_after == {"big.example": 2, "small.example": 1}


@pytest.mark.parametrize("top_frac", [0.001, 0.25, 0.5, 1.0])
def test_select_top_fraction_of_equal_scores_keeps_exactly_its_share(tmp_path, top_frac):
    rows = [(file, row, "x", None, 0.5) for file in "cab" for row in range(100)]
    counts, removed = choose(
        tmp_path, rows, select="top_fraction", top_frac=top_frac, max_removed_frac=1.0
    )
    assert counts.num_kept == math.ceil(top_frac * 300)
    in_order = sorted((file, row) for file, row, *_ in rows)
    assert [(row["file"], row["row"]) for row in removed] == in_order[counts.num_kept :]


def test_select_random_corpus_agrees_with_plain_python_whatever_order_and_threads(tmp_path):
    chance = random.Random(6)
    domains = [None, *"aaaaabbc"]
    rows = [
        (file, row, "id", chance.choice(domains), chance.randrange(8) / 8)
        for file in ("x", "y", "z")
        for row in range(200)
    ]
    settings = {"select": "top_fraction", "top_frac": 0.4, "max_domain_frac": 0.2}
    counts, removed = choose(tmp_path, rows, name="one", **settings)
    choose(tmp_path, rows[::-1], name="two", threads=1, **settings)
    files = [tmp_path / name / "removed_quality.parquet" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    best = sorted(rows, key=lambda row: (-row[4], row[:2]))
    passed, kept, seen = best[: math.ceil(0.4 * len(rows))], [], Counter()
    for row in passed:
        seen[row[3]] += 1
        if row[3] is None or seen[row[3]] <= counts.most_of_domain:
            kept.append(row[:2])
    gone = {row[:2] for row in rows} - set(kept)
    assert {(row["file"], row["row"]) for row in removed} == gone
    left = Counter(row[3] for row in rows if row[:2] not in gone)
    assert all(left[name] <= 0.2 * counts.num_kept for name in "abc")


def test_select_too_much_or_too_few_domains_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"removes 100.0%(.|\n)*7 low_quality|8 low_quality"):
        choose(tmp_path, ROWS, min_score=1.0)
    one = [("a", row, "x", "only.example", 0.9) for row in range(50)]
    with pytest.raises(CorpusError, match=r"found: 1 domains(.|\n)*max_domain_frac"):
        choose(tmp_path, one, name="one", max_domain_frac=0.5)


def test_select_nothing_to_choose_from_writes_an_empty_table(tmp_path):
    counts, removed = choose(
        tmp_path, ROWS[:1], removed=[("a", 0)], select="top_fraction", max_domain_frac=0.5
    )
    assert (counts.num_in, counts.num_kept, removed) == (0, 0, [])


def write_part(path: Path, texts: list[str], *, file: str, urls=None) -> None:
    count = len(texts)
    urls = urls or [f"https://site{number % 3}.example/{number}" for number in range(count)]
    columns = {
        "file": [file] * count,
        "row": list(range(0, 2 * count, 2)),
        "id": [f"id {number}" for number in range(count)],
        "url": pa.array(urls, pa.string()),
        "text": texts,
    }
    pq.write_table(pa.table(columns), path / "part.parquet", row_group_size=64)


def run_stage(store: ArtifactStore, stage: Stage, name: str, *, config, inputs) -> Artifact:
    derivation = stage.derive(name, config=config, inputs=inputs)
    store.build(derivation, lambda work: stage.build(work, config, SHARE))
    return derivation.artifact


def test_stages_end_to_end_tell_planted_good_from_bad(tmp_path):
    store = ArtifactStore(tmp_path / "data")
    config = local(make_labelled(tmp_path / "labels.parquet", count=1_500), max_domain_frac=0.9)
    learning = labelled_documents(config, data_seed=1, store=store)
    model = run_stage(store, training_stage, "quality", config=learning, inputs={})
    manifest = store.read_manifest(model)
    assert TrainQualityModelOutputs.facts_of(manifest).heldout_auc > 0.95
    assert TrainQualityModelOutputs.counts_of(manifest).num_labelled == 1_500
    assert (
        TrainQualityModelOutputs.counts_of(manifest).num_trained
        + TrainQualityModelOutputs.counts_of(manifest).num_heldout
        == 1_500
    )

    chance = random.Random(9)
    good = [chance.random() < 0.5 for _ in range(300)]
    texts = [make_text(chance, good=label) for label in good]
    part = make(store, FilterDocumentsOutputs, "part-0").artifact
    write_part(store.path(part), texts, file="f")
    clusters = make(store, DuplicateClustersOutputs, "corpus").artifact
    write_removed(DuplicateClustersOutputs.of(store, clusters).removed, [("f", 0), ("f", 2)])
    scores = run_stage(
        store, score_quality, "part-0", config=ScoreQuality(), inputs={"part": part, "model": model}
    )
    chosen = run_stage(
        store,
        select_quality,
        "corpus",
        config=SelectQuality(quality_model=config),
        inputs={"scores": [scores], "removed": clusters},
    )
    found = pq.read_table(ScoreQualityOutputs.of(store, scores).scores).to_pylist()
    assert [row["row"] for row in found] == list(range(0, 600, 2))
    assert roc_auc_score(good, [row["score"] for row in found]) > 0.95
    removed = pq.read_table(SelectQualityOutputs.of(store, chosen).removed).to_pylist()
    low = [row["row"] for row in found if row["score"] < 0.5 and row["row"] > 2]
    assert [row["row"] for row in removed] == low
    counts = SelectQualityOutputs.of(store, chosen).counts
    assert counts.num_in == 298 == counts.num_kept + counts.dropped["low_quality"]
    assert counts.dropped["low_quality"] == len(removed)


def test_training_on_noise_is_refused(tmp_path):
    store = ArtifactStore(tmp_path / "data")
    path = make_labelled(tmp_path / "labels.parquet", count=400, noise=2.0)
    table = pq.read_table(path)
    shuffled = np.random.default_rng(1).permutation(table["score"].to_numpy())
    pq.write_table(table.set_column(1, "score", pa.array(shuffled)), path)
    learning = labelled_documents(local(path), data_seed=1, store=store)
    with pytest.raises(CorpusError, match=r"cannot tell good documents(.|\n)*min_auc"):
        run_stage(store, training_stage, "quality", config=learning, inputs={})


def test_keys_depend_on_labels_and_on_what_each_stage_uses(tmp_path):
    path = make_labelled(tmp_path / "labels.parquet", count=50)
    store = ArtifactStore(tmp_path / "data")

    def training_key(**settings):
        config = labelled_documents(local(path, **settings), data_seed=1, store=store)
        return training_stage.derive("quality", config=config, inputs={}).key

    def choice_key(**settings):
        config = SelectQuality(quality_model=local(path, **settings))
        return select_quality.derive("corpus", config=config, inputs={}).key

    assert training_key() == training_key(min_score=0.9, max_domain_frac=0.1, min_auc=0.9)
    assert training_key() != training_key(epochs=9)
    before = training_key()
    make_labelled(path, count=51)
    assert training_key() != before
    assert choice_key() == choice_key(epochs=9, top_frac=0.1, max_removed_frac=0.5)
    assert len({choice_key(), choice_key(min_score=0.9), choice_key(max_domain_frac=0.5)}) == 3


def planned(tmp_path, **settings):
    """Return stage and key of every step that prepare would take, without taking any."""
    pipeline = Pipeline(ArtifactStore(tmp_path / "data"), RunConfig())
    quality = QualityModelConfig(**settings)
    config = PrepareConfig(preset="demo", source=SourceConfig(kind="demo"), quality_model=quality)
    prepare_corpus(pipeline, config)
    return {(step.artifact.stage, step.artifact.name): key for key, step in pipeline.steps.items()}


def test_prepare_has_the_stages_only_when_switched_on_and_else_no_other_key(tmp_path):
    path = make_labelled(tmp_path / "labels.parquet", count=50)
    without = planned(tmp_path, min_score=0.9, epochs=7)
    chosen = planned(tmp_path, **local(path).model_dump())
    names = {"train_quality_model", "score_quality", "select_quality"}
    assert {stage for stage, _ in chosen} - {stage for stage, _ in without} == names
    assert sum(stage == "score_quality" for stage, _ in chosen) == 3
    changed = {step for step, key in without.items() if chosen[step] != key}
    assert changed == {("write_shards", "training"), ("report_corpus", "corpus")}


def test_unknown_setting_is_named_with_its_group():
    with pytest.raises(ValidationError, match=r"nearest is 'quality_model\.min_score'"):
        all_optional(QualityModelConfig).model_validate({"min_scor": 0.3})


def test_funnel_goes_on_from_duplicates_to_low_quality(tmp_path):
    small = make_small_pipeline(tmp_path)
    chosen = make(
        small.store,
        SelectQualityOutputs,
        "corpus",
        counts=SelectQualityCounts(num_in=67, num_kept=60, low_quality=5, domain_cap=2),
    )
    with pytest.raises(ArtifactError, match="num_docs = 60, what select_quality kept"):
        funnel([*small.manifests.values(), chosen])
    training = small.manifests["shards-training"]
    shorter = training.model_copy(update={"counts": training.counts | {"num_docs": 60}})
    others = [item for item in small.manifests.values() if item is not training]
    found = funnel([*others, shorter, chosen])
    assert found.low_quality == {"low_quality": 5, "domain_cap": 2}
    shown = {(row.stage, row.what): row.documents for row in found.rows()}
    assert shown["select_quality", "domain_cap"] == -2


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
    files = list_labelled_files(source, cache=tmp_path / "cache")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = read_labelled(source, files, config=config, seed=1, scratch=scratch)
    assert len(found.documents) == 120
    assert list(scratch.iterdir()) == []
    hub.faults["GET data/train.parquet"] = "corrupt"
    with pytest.raises(DownloadError, match="other bytes than it promised"):
        read_labelled(source, files, config=config, seed=1, scratch=scratch)
    assert not [path for path in scratch.rglob("*") if path.is_file()]


def test_training_goes_on_after_an_outage_with_what_is_missing(tmp_path, hub, monkeypatch):
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


def test_score_file_empty_part_and_missing_model(tmp_path):
    limits = Limits(memory_bytes=500_000_000, threads=1, spill_directory=tmp_path / "spill")
    write_part(tmp_path, [], file="f")
    with pytest.raises(ArtifactError, match="quality model cannot be read"):
        score_file(tmp_path / "part.parquet", tmp_path, destination=tmp_path, limits=limits)
    QualityModel(np.zeros(1 << 8, np.float32), 0.5, 8).save(tmp_path)
    table = pa.table({name: pa.array([], kind) for name, kind in (
        ("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("url", pa.string()),
        ("text", pa.string()),
    )})  # fmt: skip
    pq.write_table(table, tmp_path / "part.parquet")
    part = tmp_path / "part.parquet"
    assert score_file(part, tmp_path, destination=tmp_path, limits=limits) == 0
    assert pq.read_schema(tmp_path / "scores.parquet") == SCORES_SCHEMA
