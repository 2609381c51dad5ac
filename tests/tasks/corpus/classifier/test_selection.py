"""Scores of files and the selection by them: thresholds, shares, domain caps."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.core.errors import (
    ArtifactError,
    CorpusError,
)
from tasks.config.corpus import QualityModelConfig
from tasks.corpus.classifier.linear_model import (
    QualityModel,
)
from tasks.corpus.classifier.selection import (
    SCORES_SCHEMA,
    domain_cap,
    score_file,
    select_documents,
)
from tasks.corpus.duckdb_connection import Limits, fetch_one, read_sql
from tests.support.quality_labels import (
    write_part,
    write_removed,
)


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


def choose(tmp_path, rows, *, removed=(), name="out", threads=2, **settings):
    by_file = {}
    for row in rows:
        by_file.setdefault(row[0], []).append(row)
    scores = [write_scores(tmp_path / name / file, found) for file, found in by_file.items()]
    gone = write_removed(tmp_path / name / "removed.parquet", list(removed))
    config = QualityModelConfig(**{"select": "threshold"} | settings)
    limits = Limits(memory_bytes=500_000_000, threads=threads, spill_directory=tmp_path / "spill")
    found = select_documents(
        scores, [gone], config=config, destination=tmp_path / name, limits=limits
    )
    return found, pq.read_table(tmp_path / name / "removed_quality.parquet").to_pylist()


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
    (counts, facts), removed = choose(tmp_path, ROWS, removed=[("b", 7)], min_score=0.65)
    assert [(row["file"], row["row"], row["reason"]) for row in removed] == [
        ("a", 3, "low_quality"), ("b", 0, "low_quality"), ("b", 1, "low_quality"),
    ]  # fmt: skip
    assert list(removed[0]) == ["file", "row", "id", "score", "reason"]
    assert (counts.num_in, counts.num_kept) == (7, 4)
    assert counts.dropped == {"low_quality": 3, "domain_cap": 0}
    assert facts.domains_before == {"big.example": 4, "small.example": 1}
    assert facts.domains_after == {"big.example": 4}


def test_select_domain_cap_keeps_the_best_of_a_crowded_domain(tmp_path):
    (counts, facts), removed = choose(
        tmp_path, ROWS, removed=[("b", 7)], min_score=0.2, max_domain_frac=0.5
    )
    assert [(row["file"], row["row"], row["reason"]) for row in removed] == [
        ("a", 1, "domain_cap"), ("a", 2, "domain_cap"), ("a", 3, "low_quality"),
    ]  # fmt: skip
    assert (facts.most_of_domain, counts.num_kept) == (2, 4)
    assert facts.domains_after == {"big.example": 2, "small.example": 1}


@pytest.mark.parametrize("top_frac", [0.001, 0.25, 0.5, 1.0])
def test_select_top_fraction_of_equal_scores_keeps_exactly_its_share(tmp_path, top_frac):
    rows = [(file, row, "x", None, 0.5) for file in "cab" for row in range(100)]
    (counts, _), removed = choose(
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
    (counts, facts), removed = choose(tmp_path, rows, name="one", **settings)
    choose(tmp_path, rows[::-1], name="two", threads=1, **settings)
    files = [tmp_path / name / "removed_quality.parquet" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    best = sorted(rows, key=lambda row: (-row[4], row[:2]))
    passed, kept, seen = best[: math.ceil(0.4 * len(rows))], [], Counter()
    for row in passed:
        seen[row[3]] += 1
        if row[3] is None or seen[row[3]] <= facts.most_of_domain:
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
    (counts, _), removed = choose(
        tmp_path, ROWS[:1], removed=[("a", 0)], select="top_fraction", max_domain_frac=0.5
    )
    assert (counts.num_in, counts.num_kept, removed) == (0, 0, [])
