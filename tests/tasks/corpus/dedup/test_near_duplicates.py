"""Near-duplicates: brute-force Jaccard over random and planted documents, chains, giant buckets."""

import logging
import random
import re
import unicodedata
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.core.errors import SourceError
from tasks.config.corpus import DedupConfig, SignatureConfig
from tasks.corpus.dedup.near_duplicates import (
    GIANT_BUCKET,
    MAX_KEPT_COMPARED,
    Selection,
    ShingleFile,
)
from tasks.corpus.dedup.signatures import MINHASH_ALGORITHM, _write_bands, band_keys
from tasks.corpus.duckdb_connection import Limits
from tasks.stages.filter_documents import filter_documents
from tests.support.small_corpus import cluster, decide, document, planted_files, sign, write_part

Rows = list[dict[str, Any]]


@cache
def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    if 0 < len(words) < 5:
        return {tuple(words)}
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def jaccard(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


def words(chance: random.Random, count: int) -> list[str]:
    return [f"w{chance.randrange(5_000)}" for _ in range(count)]


def changed(text: str, chance: random.Random, *, num_words: int) -> str:
    """Return the text with some of its words replaced."""
    parts = text.split()
    for place in chance.sample(range(len(parts)), num_words):
        parts[place] = f"new{chance.randrange(10**6)}"
    return " ".join(parts)


def test_near_duplicate_goes_in_favour_of_the_better_one(tmp_path: Path, limits: Limits) -> None:
    chance = random.Random(1)
    text = " ".join(words(chance, 200))
    documents = [
        document(changed(text, chance, num_words=2), row=0, language_score=0.8),
        document(text, row=1, language_score=0.9),
        document(" ".join(words(chance, 200)), row=2),
    ]
    (counts, facts), removed, clusters = cluster(tmp_path, documents, limits)
    (gone,) = removed
    assert (gone["id"], gone["kept_id"], gone["kind"]) == ("a/0", "a/1", "near")
    assert gone["jaccard"] == pytest.approx(jaccard(documents[0]["text"], text))
    assert [(item["kind"], item["size"]) for item in clusters] == [("near", 2)]
    assert counts.dropped["near"] == 1
    assert (facts.near.num_candidates, facts.near.num_compared) == (2, 1)


@pytest.mark.parametrize("match", ["none", "exact", "normalised"])
def test_other_matches_remove_only_what_is_near_validation(
    tmp_path: Path, limits: Limits, match: Any
) -> None:
    chance = random.Random(1)
    text, held_out = (" ".join(words(chance, 200)) for _ in range(2))
    documents = [
        document(text, row=0),
        document(f"{text} more", row=1),
        document(f"{held_out} more", row=2),
    ]
    (_, facts), removed, _ = cluster(
        tmp_path,
        documents,
        limits,
        validation=[document(held_out, file="v")],
        config=DedupConfig(match=match),
    )
    assert [(row["id"], row["kept_id"], row["kind"]) for row in removed] == [
        ("a/2", "v/0", "validation")
    ]
    assert (facts.near.num_candidates, facts.near.num_compared) == (2, 1)


def families(seed: int, *, num_families: int) -> Rows:
    """Return documents of 20 to 300 words, each family edited a little or more from its first."""
    chance = random.Random(seed)
    documents: Rows = []
    for _ in range(num_families):
        first = " ".join(words(chance, chance.randrange(20, 300)))
        for _ in range(chance.randrange(1, 5)):
            share = chance.choice([0.0, 0.005, 0.01, 0.02, 0.05, 0.2])
            text = changed(first, chance, num_words=int(share * len(first.split())))
            file, score = chance.choice("abc"), chance.choice([0.7, 0.8, None])
            documents.append(document(text, file=file, row=len(documents), language_score=score))
    return documents


def test_selection_matches_greedy_brute_force(tmp_path: Path, limits: Limits) -> None:
    documents = families(seed=2, num_families=160)
    _, removed, _ = cluster(tmp_path, documents, limits, config=DedupConfig(min_jaccard=0.85))
    gone = {row["id"]: row for row in removed}
    texts = {row["id"]: row["text"] for row in documents}
    in_order = sorted(
        documents,
        key=lambda row: (
            row["language_score"] is None,
            -(row["language_score"] or 0),
            -len(row["text"]),
            row["file"],
            row["row"],
        ),
    )
    kept: list[str] = []
    missed = 0
    for row in in_order:
        name = row["id"]
        matches = [other for other in kept if jaccard(texts[name], texts[other]) >= 0.85]
        if name in gone:
            assert gone[name]["kept_id"] in matches  # and so is kept itself
            if gone[name]["kind"] == "near":
                index = jaccard(texts[name], texts[gone[name]["kept_id"]])
                assert gone[name]["jaccard"] == pytest.approx(index)
        else:
            missed += bool(matches)
            kept.append(name)
    assert len(gone) > 100
    assert missed <= 0.02 * len(gone)  # of pairs at 0.85, MinHash misses 1.2 %


def test_chain_of_similar_documents_is_not_removed_as_a_whole(
    tmp_path: Path, limits: Limits
) -> None:
    parts = words(random.Random(4), 240)
    texts = [" ".join(parts[start : start + 200]) for start in (0, 16, 32)]
    assert jaccard(texts[0], texts[1]) > 0.8 > jaccard(texts[0], texts[2])
    scores = (0.9, 0.8, 0.7)
    documents = [
        document(text, row=row, language_score=score)
        for row, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]
    _, removed, _ = cluster(tmp_path, documents, limits)
    assert [(row["id"], row["kept_id"]) for row in removed] == [("a/1", "a/0")]


def test_copy_of_a_near_duplicate_names_a_kept_document(tmp_path: Path, limits: Limits) -> None:
    text = " ".join(words(random.Random(5), 100))
    longer = f"{text} and more"
    documents = [
        document(longer, row=0, language_score=0.9),
        document(text, row=1, language_score=0.8),
        document(text, row=2, language_score=0.7),
        document(text.upper(), row=3, language_score=0.6),
    ]
    (counts, _), removed, clusters = cluster(tmp_path, documents, limits)
    assert [(row["id"], row["kept_id"], row["kind"]) for row in removed] == [
        ("a/1", "a/0", "near"),
        ("a/2", "a/0", "near"),
        ("a/3", "a/0", "near"),
    ]
    assert {row["jaccard"] for row in removed} == {jaccard(text, longer)}
    assert [item["size"] for item in clusters] == [4]
    assert counts.dropped["near"] == 3


def test_validation_row_removes_what_is_like_it_and_is_kept(tmp_path: Path, limits: Limits) -> None:
    chance = random.Random(6)
    text = " ".join(words(chance, 200))
    held_out = document(text, file="v", row=7, language_score=0.1)
    near = document(changed(text, chance, num_words=1), row=0, language_score=1.0)
    other = document(changed(text, chance, num_words=2), file="v", row=8, language_score=0.1)
    _, removed, clusters = cluster(tmp_path, [near], limits, validation=[held_out, other])
    (gone,) = removed
    assert (gone["id"], gone["kept_id"], gone["kind"]) == ("a/0", "v/7", "validation")
    assert gone["jaccard"] == pytest.approx(jaccard(near["text"], text))
    assert [item["size"] for item in clusters] == [2]


def test_ten_thousand_boilerplate_documents_leave_one(
    tmp_path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    page = " ".join(words(random.Random(7), 300))
    documents = [document(f"{page} visitor {number}", row=number) for number in range(10_001)]
    config = DedupConfig(max_removed_frac=1.0)
    with caplog.at_level(logging.WARNING):
        (_, facts), removed, _ = cluster(tmp_path, documents, limits, config=config)
    assert len(removed) == 10_000
    assert facts.near.num_compared == 10_000
    assert facts.near.largest_bucket > GIANT_BUCKET
    assert f"the largest bucket has {facts.near.largest_bucket} documents" in caplog.text


def test_large_bucket_of_different_documents_is_compared_within_limits(
    tmp_path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(8)
    frame = words(chance, 300)
    documents = [
        document(" ".join([*frame, *words(chance, 120)]), row=number) for number in range(200)
    ]
    config = DedupConfig(min_jaccard=0.8, bands=20, band_rows=2)
    files = sign(tmp_path, documents, limits, config=config)
    held_out = write_part(tmp_path / "validation.parquet", [])
    with caplog.at_level(logging.WARNING):
        (_, facts), removed, _ = decide(tmp_path, files, held_out, limits, config=config)
    assert removed == []
    assert f"more than {MAX_KEPT_COMPARED} different ones" in caplog.text
    assert facts.near.num_compared < 200 * 199 / 2


def test_documents_without_words_are_not_duplicates_of_each_other(
    tmp_path: Path, limits: Limits
) -> None:
    texts = ["...", "?!", "— —", "word"]
    documents = [document(text, row=row) for row, text in enumerate(texts)]
    _, removed, _ = cluster(tmp_path, documents, limits)
    assert removed == []


def test_pair_exactly_at_the_threshold_goes(tmp_path: Path) -> None:
    sets = [np.arange(100), np.arange(55), np.arange(54), np.empty(0), np.empty(0)]
    with (tmp_path / "shingles.u64").open("w+b") as file:
        shingles = ShingleFile(file)
        for place, values in enumerate(sets):
            shingles.add(place, values.astype(np.uint64))
        shingles.end_writing()
        least = 0.55  # times 100 it is more than 55 in floats
        selection = Selection(shingles, min_jaccard=least, num_first=0, compares_all=True)
        selection.run([(0, [1]), (1, [1]), (2, [1]), (3, [2]), (4, [2])])
    assert selection.found == [(1, 0, 0.55)]


@pytest.mark.parametrize("damage", ["cut", "page"])
def test_part_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    part = write_part(tmp_path / "part.parquet", [document("some text " * 500)])
    content = part.read_bytes()
    part.write_bytes(content[:-9] if damage == "cut" else content[:4] + bytes(400) + content[404:])
    with pytest.raises(SourceError, match="cannot be read") as caught:
        _write_bands(part, config=SignatureConfig(), path=tmp_path / "bands.parquet")
    assert caught.value.where == part


def test_file_order_and_threads_change_no_byte(tmp_path: Path, limits: Limits) -> None:
    documents = families(seed=9, num_families=60)
    files = sign(tmp_path, documents, limits)
    held_out = write_part(tmp_path / "validation.parquet", documents[:2])
    outputs = set()
    for threads, ordered in zip((1, 2, 2, 1, 2, 1), permutations(files), strict=True):
        decide(tmp_path, ordered, held_out, Limits(500_000_000, threads, tmp_path / "spill"))
        names = ("removed.parquet", "clusters.parquet")
        outputs.add(tuple((tmp_path / name).read_bytes() for name in names))
    assert len(outputs) == 1


def test_cut_bands_file_is_named(tmp_path: Path, limits: Limits) -> None:
    (file,) = sign(tmp_path, [document("some text", row=0)], limits)
    file.bands.write_bytes(file.bands.read_bytes()[:-9])
    held_out = write_part(tmp_path / "validation.parquet", [])
    with pytest.raises(SourceError, match="cannot be read") as caught:
        decide(tmp_path, [file], held_out, limits)
    assert caught.value.where == str(file.bands)


def test_band_keys_are_the_same_for_ever() -> None:
    """Keys of another kernel or hash would match nothing: then the algorithm's name changes."""
    unicode = unicodedata.unidata_version  # of the interpreter: part of the name, yet no promise
    assert MINHASH_ALGORITHM.split("-unicode-") == ["rensa-2-seed-1-words-1", unicode]
    assert filter_documents.algorithms["unicode"] == unicode
    keys = band_keys(["The cat sat on the mat."], SignatureConfig(bands=2))
    assert keys.tolist() == [[15786738708054935148, 15219608906956356636]]


def test_band_keys_collide_as_often_as_the_formula_says() -> None:
    chance = random.Random(10)
    config = SignatureConfig()
    hits = []
    for _ in range(300):
        text = " ".join(words(chance, 400))
        other = changed(text, chance, num_words=8)
        index = jaccard(text, other)
        keys = band_keys([text, other], config)
        expected = 1 - (1 - index**config.band_rows) ** config.bands
        hits.append((bool((keys[0] == keys[1]).any()), expected))
    found, expected = np.mean(hits, axis=0)
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("least", [0.9, 0.85])
def test_planted_near_duplicates_are_found_and_nothing_else(
    tmp_path: Path, limits: Limits, shared_data: Path, least: float
) -> None:
    planted = shared_data / "web_planted"
    truth = pq.read_table(planted / "truth.parquet").to_pylist()
    files = planted_files(tmp_path, planted, limits)
    held_out = write_part(tmp_path / "validation.parquet", [])
    _, removed, _ = decide(tmp_path, files, held_out, limits)
    gone = {row["id"]: row for row in removed}
    wanted = [row for row in truth if row["kind"] == "near_dup" and row["jaccard_word5"] >= least]
    found = [row for row in wanted if row["id"] in gone or row["original_id"] in gone]
    assert len(found) >= (0.99 if least == 0.9 else 0.95) * len(wanted) > 0
    survivors = {"template_family", "clean"}
    lost = [row for row in truth if row["kind"] in survivors and row["id"] in gone]
    originals = {row["original_id"] for row in truth}
    assert [row for row in lost if row["id"] not in originals] == []
    assert min(row["jaccard"] for row in removed if row["kind"] == "near") >= 0.8
