"""Signatures and clusters against brute-force grouping with dictionaries, and on planted copies."""

import hashlib
import random
import re
from itertools import permutations

import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceError
from tasks.config.corpus import DedupConfig, SignatureConfig
from tasks.corpus.dedup.clusters import KINDS
from tasks.corpus.dedup.signatures import write_signatures
from tasks.corpus.duckdb_connection import Limits
from tests.support.small_corpus import (
    cluster,
    decide,
    document,
    planted_files,
    short,
    sign,
    signed_file,
    write_part,
)

NONE = dict.fromkeys(KINDS, 0)


def test_write_signatures_document_holds_documented_columns(tmp_path, limits):
    part = write_part(
        tmp_path / "part.parquet", [document("Hello, World", row=4), document("é", row=9)]
    )
    config = SignatureConfig()
    counts = write_signatures(part, config=config, destination=tmp_path, limits=limits)
    table = pq.read_table(tmp_path / "signatures.parquet")
    names = "file row id exact_key normalised_key num_chars language_score date"
    assert table.schema.names == names.split()
    assert table["row"].to_pylist() == [4, 9]
    assert table["num_chars"].to_pylist() == [12, 1]
    digest = hashlib.md5(b"helloworld", usedforsecurity=False).digest()
    assert table["normalised_key"][0].as_py().bytes == digest[::-1]
    assert (counts.num_documents, counts.num_chars) == (2, 13)


def test_cluster_duplicates_copies_keep_the_best_and_say_how_they_match(tmp_path, limits):
    documents = [
        document("The cat sat.", row=0, language_score=0.8),
        document("The cat sat.", row=1, language_score=0.9),
        document("the CAT  sat!", row=2, language_score=0.7),
        document("Another text", row=3),
    ]
    (counts, facts), removed, clusters = cluster(tmp_path, documents, limits)
    assert short(removed) == [("a/0", "a/1", "exact", 1.0), ("a/2", "a/1", "normalised", None)]
    assert removed[0] == {
        **{"file": "a", "row": 0, "id": "a/0", "kept_file": "a", "kept_row": 1, "kept_id": "a/1"},
        **{"kind": "exact", "jaccard": 1.0},
    }
    kept = {"kept_file": "a", "kept_row": 1, "kept_id": "a/1"}
    assert clusters == [{"cluster": 0, "kind": "normalised", "size": 3, **kept}]
    assert (counts.num_in, counts.num_kept, facts.num_clusters) == (4, 2, 1)
    assert counts.dropped == NONE | {"exact": 1, "normalised": 1}


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"language_score": 0.8}, {"language_score": 0.81}),
        ({"language_score": None}, {"language_score": 0.1}),
        ({"text": "one two"}, {"text": "one, two"}),
        ({"date": "2019"}, {"date": "2020"}),
        ({"date": None}, {"date": "1999"}),
        ({"file": "b", "row": 0}, {"file": "a", "row": 8}),
        ({"row": 8}, {"row": 7}),
        ({"language_score": 0.8, "text": "one, two"}, {"language_score": 0.9, "text": "one two"}),
        ({"text": "one two", "date": "2021"}, {"text": "one, two", "date": "2020"}),
    ],
)
def test_cluster_duplicates_two_copies_keep_order_decides(tmp_path, limits, worse, better):
    base = {"text": "one two", "row": 5}
    documents = [document(**{**base, **worse}), document(**{**base, "row": 6, **better})]
    _, removed, _ = cluster(tmp_path, documents, limits)
    assert [(r["id"], r["kept_id"]) for r in removed] == [(documents[0]["id"], documents[1]["id"])]


def test_cluster_duplicates_only_punctuation_is_compared_as_it_stands(tmp_path, limits):
    documents = [document(text, row=i) for i, text in enumerate(["...", "?!", "...", "— —"])]
    _, removed, _ = cluster(tmp_path, documents, limits)
    assert short(removed) == [("a/2", "a/0", "exact", 1.0)]


@pytest.mark.parametrize(
    ("match", "removed_ids"),
    [("none", ["v/0"]), ("exact", ["a/1", "v/0"]), ("normalised", ["a/1", "a/2", "v/0"])],
)
def test_cluster_duplicates_match_setting_limits_kinds_but_never_validation(
    tmp_path, limits, match, removed_ids
):
    held_out = document("held out", file="v")
    texts = ["same text", "same text", "Same Text."]
    documents = [document(text, row=i, date="2020") for i, text in enumerate(texts)]
    documents[2]["language_score"] = 0.5
    config = DedupConfig(match=match, max_removed_frac=1.0)
    _, removed, _ = cluster(
        tmp_path, [*documents, held_out], limits, validation=[held_out], config=config
    )
    assert [r["id"] for r in removed] == removed_ids


def test_cluster_duplicates_validation_near_duplicates_all_go_to_the_validation_row(
    tmp_path, limits
):
    held_out = document("Held out text.", file="a", row=1, language_score=0.1)
    lonely = document("Nobody is like me", file="a", row=3, language_score=0.1)
    documents = [
        document("held OUT text", row=0, language_score=0.99),
        held_out,
        document("Held out text.", row=2, language_score=0.99),
        lonely,
        document("something else", row=4),
    ]
    (counts, _), removed, clusters = cluster(
        tmp_path, documents, limits, validation=[held_out, lonely]
    )
    assert short(removed) == [
        ("a/0", "a/1", "validation", None),
        ("a/1", "a/1", "validation", 1.0),
        ("a/2", "a/1", "validation", 1.0),
        ("a/3", "a/3", "validation", 1.0),
    ]
    kept = {"kept_file": "a", "kept_row": 1, "kept_id": "a/1"}
    assert clusters == [{"cluster": 0, "kind": "validation", "size": 3, **kept}]
    assert counts.dropped == NONE | {"validation": 4}


def keep_order(row: dict) -> tuple:
    score, date = row["language_score"], row["date"]
    return (
        (score is None, -(score or 0)),
        -len(row["text"]),
        (date is None, [-ord(c) for c in date or ""]),
        row["file"],
        row["row"],
    )


def brute_force(documents: list[dict], validation: list[dict]) -> set[tuple]:
    def words(row: dict) -> str:
        return "".join(re.findall(r"\w+", row["text"].lower())) or row["text"]

    held_out = {words(row): row for row in validation}
    groups: dict[str, list[dict]] = {}
    removed = set()
    for row in documents:
        if words(row) in held_out:
            kept = held_out[words(row)]
            removed.add((row["file"], row["row"], kept["file"], kept["row"], "validation"))
        else:
            groups.setdefault(words(row), []).append(row)
    for group in groups.values():
        kept, *others = sorted(group, key=keep_order)
        for row in others:
            kind = "exact" if row["text"] == kept["text"] else "normalised"
            removed.add((row["file"], row["row"], kept["file"], kept["row"], kind))
    return removed


def random_documents(count: int) -> list[dict]:
    chance = random.Random(3)
    forms = [str.lower, str.upper, str.title, lambda text: text + "!", lambda text: f" {text}\n"]
    rows = {"a": 0, "b": 0, "c": 0}
    documents = []
    for _ in range(count):
        file = chance.choice("abc")
        text = chance.choice(forms)(f"text number {chance.randrange(count // 2)}")
        score, date = chance.choice([0.7, 0.8, None]), chance.choice(["2020", "2021", None])
        documents.append(document(text, file=file, row=rows[file], language_score=score, date=date))
        rows[file] += chance.randrange(1, 3)
    return documents


def test_cluster_duplicates_random_documents_agree_with_brute_force(tmp_path, limits):
    documents = random_documents(600)
    validation = [documents[3], documents[77], document("number 1, held out", file="z")]
    (counts, facts), removed, clusters = cluster(tmp_path, documents, limits, validation=validation)
    found = {(r["file"], r["row"], r["kept_file"], r["kept_row"], r["kind"]) for r in removed}
    assert found == brute_force(documents, validation)
    assert {kind for *_, kind in found} == {"validation", "exact", "normalised"}
    assert [(r["file"], r["row"]) for r in removed] == sorted(
        (file, row) for file, row, *_ in found
    )
    assert counts.num_in == 600 == counts.num_kept + len(found)
    assert counts.num_in == counts.num_kept + sum(counts.dropped.values())
    sizes = {(c["kept_file"], c["kept_row"]): c["size"] for c in clusters}
    assert sum(sizes.values()) - len(sizes) == sum(1 for f in found if f[:2] != f[2:4])
    assert [c["cluster"] for c in clusters] == list(range(facts.num_clusters))


def test_cluster_duplicates_file_order_and_threads_change_no_byte(tmp_path, limits):
    documents = random_documents(200)
    signatures = sign(tmp_path, documents, limits)
    held_out = write_part(tmp_path / "validation.parquet", documents[:2])
    outputs = set()
    for threads, ordered in zip((1, 2, 2, 1, 2, 1), permutations(signatures), strict=True):
        settings = Limits(500_000_000, threads, tmp_path / "spill")
        decide(tmp_path, ordered, held_out, settings)
        names = ("removed.parquet", "clusters.parquet")
        outputs.add(tuple((tmp_path / name).read_bytes() for name in names))
    assert len(outputs) == 1


def test_cluster_duplicates_nothing_in_common_removes_nothing(tmp_path, limits):
    documents = [document(f"text {i}", row=i) for i in range(5)]
    (counts, _), removed, clusters = cluster(tmp_path, documents, limits)
    assert (counts.num_kept, removed, clusters) == (5, [], [])


def test_cluster_duplicates_file_without_documents_is_fine(tmp_path, limits):
    empty = signed_file(write_part(tmp_path / "part.parquet", []), limits)
    assert pq.read_metadata(empty.bands).num_rows == 0
    validation = write_part(tmp_path / "validation.parquet", [])
    (counts, _), _, _ = decide(tmp_path, [empty], validation, limits)
    assert counts.num_in == counts.num_kept == 0


def test_cluster_duplicates_too_many_copies_raises_corpus_error_with_numbers(tmp_path, limits):
    documents = [document("same", row=i) for i in range(10)]
    with pytest.raises(CorpusError, match=r"removes 90\.0%") as caught:
        cluster(tmp_path, documents, limits, config=DedupConfig(max_removed_frac=0.85))
    assert "9 of 10 documents (9 exact)" in str(caught.value)
    assert "dedup.max_removed_frac" in str(caught.value)


def test_cluster_duplicates_cut_signatures_raise_source_error_naming_the_file(tmp_path, limits):
    files = sign(tmp_path, [document("x", file="a"), document("y", file="b")], limits)
    cut = files[1].signatures
    cut.write_bytes(cut.read_bytes()[:-9])
    validation = write_part(tmp_path / "validation.parquet", [])
    with pytest.raises(SourceError, match="cannot be read") as caught:
        decide(tmp_path, files, validation, limits)
    assert caught.value.where == str(cut)


def test_cluster_duplicates_planted_copies_are_all_found_and_nothing_else(
    tmp_path, limits, shared_data
):
    planted = shared_data / "web_planted"
    columns = ["id", "kind", "original_id"]
    truth = {
        row["id"]: row
        for row in pq.read_table(planted / "truth.parquet", columns=columns).to_pylist()
    }
    files = planted_files(tmp_path, planted, limits)
    validation = write_part(tmp_path / "validation.parquet", [])
    config = DedupConfig(match="normalised")
    _, removed, _ = decide(tmp_path, files, validation, limits, config=config)

    def original(document_id: str) -> str:
        row = truth[document_id]
        return row["original_id"] if row["kind"] in {"exact_dup", "norm_dup"} else document_id

    assert [r for r in removed if original(r["id"]) != original(r["kept_id"])] == []
    copies = {i for i, row in truth.items() if row["kind"] in {"exact_dup", "norm_dup"}}
    joined = {frozenset((r["id"], r["kept_id"])) for r in removed}
    survivors = copies - {r["id"] for r in removed}
    assert len(joined) == len(copies) == 450
    assert all(any(copy in pair for pair in joined) for copy in survivors)
