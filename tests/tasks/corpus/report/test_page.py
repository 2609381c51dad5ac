"""The corpus report: its numbers against plain Python, its page read by a strict parser."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import SourceError
from tasks.config.run import ReportConfig
from tasks.corpus.duckdb_connection import Limits, read_sql
from tasks.corpus.report.data import (
    CorpusFiles,
    Disk,
    FunnelLine,
    Histogram,
    Loss,
    Origins,
    Report,
    Tokens,
)
from tasks.corpus.report.examples import rejected_examples
from tasks.corpus.report.make import KnownNumbers, make_report, write_report
from tasks.corpus.report.measures import Occurrences, bin_counts, length_edges
from tasks.corpus.report.page import page
from tests.support.html_check import Page, read_page
from tests.support.prepared_corpus import Document, SmallCorpus, document, make_corpus

ATTACK = '<script>alert(1)</script> & "<b>" </blockquote> \x00\x1b[31m \u202eneg three words'
HOSTS = ("a.example", "WWW.b.example.", "user@c.example:8080", "d.example")
WORDS = [
    "tom",
    "has",
    "a",
    "red",
    "hat",
    "and",
    "the",
    "cat",
    "sat",
    "on",
    "it",
    "while",
    "rain",
    "fell",
    "in",
    "town",
]


def make_documents(seed: int, *, num: int) -> list[Document]:
    draw = random.Random(seed)
    return [
        document(
            " ".join(draw.choices(WORDS, k=draw.randint(1, 60))) + f" {seed}-{row}",
            id=f"{seed}/{row}",
            url=draw.choice(["", f"https://{draw.choice(HOSTS)}/{row}?x=http://z.example"]),
            dump=draw.choice(["CC-1", "CC-2", None]),
            language_score=draw.choice([None, round(draw.uniform(0.3, 1), 4)]),
            token_count=draw.randint(5, 500),
        )
        for row in range(num)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    first, second = make_documents(1, num=160), make_documents(2, num=90)
    first[3]["text"] = None
    first[4]["text"] = " \n"
    first[5] = document(ATTACK, language="de")
    first[6] = document(ATTACK + " one", id=ATTACK)
    first[7] = document((ATTACK + " One").upper())
    second += [dict(item) for item in first[20:40]]
    second += [{**item, "text": f"{item['text']}".upper()} for item in first[40:50]]
    files = {"x/first.parquet": first, "x/<second>.parquet": second, "x/empty.parquet": []}
    return make_corpus(tmp_path_factory.mktemp("corpus"), files, num_validation=10)


def known(corpus: SmallCorpus, **counts: dict[str, int]) -> KnownNumbers:
    """Return what manifests would say, counted here."""
    source = sum(len(rows) for rows in corpus.documents.values())
    reasons = Counter(
        reason
        for path in corpus.files.rejected.values()
        for reason in pq.read_table(path)["reason"].to_pylist()
    )
    kinds = Counter(pq.read_table(corpus.files.copies)["kind"].to_pylist())
    kept = source - sum(reasons.values()) - sum(kinds.values())
    lines = [("download", "documents", source), ("write_shards", "training", kept)]
    return KnownNumbers(
        source={"kind": "local"},
        funnel=[
            FunnelLine(stage=stage, what=what, documents=count, percent=100 * count / source)
            for stage, what, count in lines
        ],
        losses=[
            Loss(stage=stage, reason=reason, documents=count)
            for stage, found in (("filter_documents", reasons), ("duplicate_clusters", kinds))
            for reason, count in found.items()
        ],
        tokens=Tokens(
            source_before=None,
            source_after=None,
            training=12_345,
            validation=67,
            training_documents=kept,
            vocabulary=300,
            bytes_per_token=4.25,
        ),
        disk=[Disk(stage="download", artifacts=3, bytes=1_250_000)],
        **counts,
    )


def write(
    corpus: SmallCorpus, folder: Path, *, threads: int = 2, config: ReportConfig | None = None,
    **counts: dict[str, int],
) -> Report:  # fmt: skip
    folder.mkdir(exist_ok=True, parents=True)
    return write_report(
        corpus.files,
        known(corpus, **counts),
        config=config or ReportConfig(),
        destination=folder,
        limits=Limits(500_000_000, threads, folder.parent / "spill"),
    )


@pytest.fixture(scope="module")
def report(corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(corpus, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page_text(corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write(corpus, folder)
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def shown(page_text: str) -> Page:
    return read_page(page_text)


def sides(corpus: SmallCorpus) -> dict[str, list[Document]]:
    before = [item for rows in corpus.documents.values() for item in rows]
    return {"before": before, "after": [item for _, _, item in corpus.kept()]}


def expect_histogram(histogram: Histogram, values: Mapping[str, list[Any]]) -> None:
    for side, found in values.items():
        have = sorted(value for value in found if value is not None)
        summary = getattr(histogram, f"summary_{side}")
        assert (summary.documents, summary.unknown) == (len(have), len(found) - len(have))
        assert summary.mean == pytest.approx(sum(have) / len(have))
        for share, value in summary.percentiles.items():
            assert value == have[max(0, ceil(len(have) * int(share) / 100) - 1)]
        edges = histogram.edges
        counts = getattr(histogram, side)
        for place, count in enumerate(counts):
            is_last = place == len(counts) - 1
            assert count == sum(
                edges[place] <= value and (is_last or value < edges[place + 1]) for value in have
            )


def test_report_of_scores_equals_plain_python(corpus: SmallCorpus, report: Report) -> None:
    scores = {
        side: [
            None if (score := item["language_score"]) is None else int(score * 1000 + 1e-6) / 1000
            for item in found
        ]
        for side, found in sides(corpus).items()
    }
    expect_histogram(report.score, scores)
    assert report.score.summary_before.unknown > report.score.summary_after.unknown > 0


def test_report_of_lengths_equals_plain_python(corpus: SmallCorpus, report: Report) -> None:
    texts = {side: [item["text"] for item in found] for side, found in sides(corpus).items()}
    chars = {side: [None if t is None else len(t) for t in found] for side, found in texts.items()}
    expect_histogram(report.chars, chars)
    assert report.chars.summary_before.total == sum(count for count in chars["before"] if count)
    words = {
        side: [len(t.split()) for t in found if t is not None] for side, found in texts.items()
    }
    expect_histogram(report.words, words)
    assert report.sample.is_everything
    assert report.sample.documents_after == len(words["after"])


def test_report_tells_of_records_that_were_skipped_as_broken(
    corpus: SmallCorpus, report: Report, tmp_path: Path
) -> None:
    some = report.model_copy(update={"skipped_records": 1_234})
    said = read_page(page(some)).text
    assert "1,234 broken records skipped" in said
    assert "Records that were skipped as broken never became documents." in said
    assert "skipped" not in read_page(page(report)).text
    made = make_report(
        corpus.files,
        replace(known(corpus), skipped_records=7),
        config=ReportConfig(),
        limits=Limits(500_000_000, 2, tmp_path / "spill"),
    )
    assert made.skipped_records == 7


def expect_origins(origins: Origins, names: Mapping[str, list[str]]) -> None:
    before, after = Counter(names["before"]), Counter(names["after"])
    order = sorted(before, key=lambda name: (-before[name], -after[name], name))[:20]
    found = [(item.name, item.before, item.after) for item in origins.shares]
    assert found == [(name, before[name], after[name]) for name in order]
    assert origins.distinct_before == len(before.keys() - {""})
    assert origins.distinct_after == len(after.keys() - {""})


def test_report_of_origins_equals_plain_python(corpus: SmallCorpus, report: Report) -> None:
    domains = {
        side: [
            (urlsplit(item["url"]).hostname or "").removeprefix("www.").rstrip(".")
            for item in found
        ]
        for side, found in sides(corpus).items()
    }
    expect_origins(report.domains, domains)
    assert {item.name for item in report.domains.shares} >= {"b.example", "c.example", ""}
    dumps = {side: [item["dump"] or "" for item in found] for side, found in sides(corpus).items()}
    expect_origins(report.dumps, dumps)


def test_report_of_tokens_and_vocabulary_equals_plain_python(
    corpus: SmallCorpus, report: Report
) -> None:
    found = {
        side: sum(item["token_count"] for item in items) for side, items in sides(corpus).items()
    }
    assert report.tokens.source_before == found["before"]
    assert report.tokens.source_after == found["after"]
    texts = [item["text"].lower() for item in sides(corpus)["after"]]
    words = [word for text in texts for word in re.findall(r"\w+", text)]
    assert report.vocabulary.documents == len(texts)
    assert report.vocabulary.words[-1] == len(words)
    assert report.vocabulary.distinct[-1] == len(set(words))
    assert list(report.vocabulary.words) == sorted(set(report.vocabulary.words))
    assert list(report.vocabulary.distinct) == sorted(report.vocabulary.distinct)
    assert len(report.vocabulary.words) > 5


def test_report_of_clusters_equals_plain_python(corpus: SmallCorpus, report: Report) -> None:
    clusters = pq.read_table(corpus.files.clusters).to_pylist()
    expected = Counter(
        (item["kind"], next(top for top in (2, 4, 8, 16) if item["size"] <= top))
        for item in clusters
    )
    found = {(item.kind, item.most): item.clusters for item in report.cluster_sizes}
    assert found == expected
    removed = pq.read_table(corpus.files.copies).to_pylist()
    equal = Counter(item["kind"] for item in removed if item["jaccard"] == 1)
    assert {item.kind: item.documents for item in report.similarities} == equal
    assert {(item.least, item.most) for item in report.similarities} == {(0.95, 1.0)}


def test_report_examples_are_documents_of_their_reason(corpus: SmallCorpus, report: Report) -> None:
    reasons = {
        (item["file"], item["row"]): (item["reason"], item["detail"])
        for path in corpus.files.rejected.values()
        for item in pq.read_table(path).to_pylist()
    }
    by_reason = {loss.reason: loss for loss in report.losses}
    for reason in ("null_text", "empty_text", "language", "language_score", "too_short"):
        loss = by_reason[reason]
        assert len(loss.examples) == min(3, loss.documents)
        for example in loss.examples:
            place = example.excerpt.file, example.excerpt.row
            assert reasons[place] == (reason, example.detail)
            text = corpus.documents[place[0]][place[1]]["text"]
            shown = example.excerpt.text
            assert shown == text or (shown and text.startswith(shown.removesuffix("…")))
            assert len(shown or "") <= 301
    assert not by_reason["exact"].examples


def test_report_pairs_are_removed_beside_kept(corpus: SmallCorpus, report: Report) -> None:
    removed = {
        (row["file"], row["row"]): row for row in pq.read_table(corpus.files.copies).to_pylist()
    }
    assert {pair.kind for pair in report.pairs} >= {"exact", "normalised"}
    for pair in report.pairs:
        row = removed[pair.removed.file, pair.removed.row]
        assert (pair.kept.file, pair.kept.row) == (row["kept_file"], row["kept_row"])
        assert (pair.kind, pair.jaccard) == (row["kind"], row["jaccard"])
        assert (pair.removed.file, pair.removed.row) != (pair.kept.file, pair.kept.row)
        assert pair.removed.text
        assert pair.kept.text
        assert (pair.removed.text == pair.kept.text) == (pair.kind != "normalised")


def test_report_json_holds_what_the_report_says(corpus: SmallCorpus, tmp_path: Path) -> None:
    report = write(corpus, tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert Report.model_validate_json(text) == report
    assert json.loads(text)["tokens"]["training"] == 12_345


def test_report_bytes_do_not_depend_on_threads_or_order_of_files(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    files = {
        name: dict(reversed(getattr(corpus.files, name).items()))
        for name in ("raw", "parts", "rejected")
    }
    turned = replace(corpus, files=replace(corpus.files, **files))
    write(corpus, tmp_path / "one", threads=1)
    write(turned, tmp_path / "two", threads=3)
    for name in ("report.html", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_report_examples_come_in_one_order_whatever_the_threads(tmp_path: Path) -> None:
    files = {f"{letter}.parquet": tmp_path / f"{letter}.parquet" for letter in "abcd"}
    for file, path in files.items():
        rows = [
            {"file": file, "row": row, "id": None, "reason": f"{row % 40}", "detail": None}
            for row in range(200)
        ]
        pq.write_table(pa.Table.from_pylist(rows), path)
    corpus = CorpusFiles(
        raw={}, parts={}, rejected=files, removed=(), copies=tmp_path, clusters=tmp_path
    )
    found = set()
    for threads in (1, 2, 3, 4, 4, 4):
        with Limits(500_000_000, threads, tmp_path / "spill").connect() as connection:
            connection.execute(read_sql("domain_of"))
            connection.execute(read_sql("report_documents"))
            examples = rejected_examples(connection, corpus, num_examples=3)
        found.add(repr(examples))
    assert len(found) == 1


def test_report_of_a_sample_says_so(corpus: SmallCorpus, tmp_path: Path) -> None:
    total = sum(len(item["text"] or "") for item in sides(corpus)["before"])
    report = write(corpus, tmp_path, config=ReportConfig(sample_chars=total // 3, num_examples=1))
    sample = report.sample
    assert not sample.is_everything
    assert 280 * 0.2 < sample.documents_before < 280 * 0.5
    assert sample.documents_after < sample.documents_before
    assert report.words.summary_before.documents == sample.documents_before
    assert report.chars.summary_before.documents == 279
    assert {len(loss.examples) for loss in report.losses} == {0, 1}
    said = read_page((tmp_path / "report.html").read_text()).text
    assert f"random sample: {sample.documents_before} documents before" in said


def test_report_page_is_well_formed_accessible_and_stands_by_itself(
    page_text: str, shown: Page
) -> None:
    elements = shown.elements
    assert page_text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert elements["h1"] == 1
    assert elements["h2"] == elements["section"] == 11
    assert elements["caption"] == elements["table"] > 8
    assert elements["svg"] == 4
    assert page_text.count('role="img" aria-label=') == 4
    assert "prefers-color-scheme: dark" in page_text
    assert "http" not in page_text.replace("http-equiv", "").replace("http://z.example", "")


def test_report_page_charts_take_colours_and_font_from_the_page(page_text: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page_text, flags=re.DOTALL)
    for chart in drawn:
        assert "var(--after)" in chart
        assert not re.search(r"#[0-9a-f]{6}|url\(|font", chart)
    assert ["var(--before)" in chart for chart in drawn] == [True, True, True, False]
    for text in ("language score", "characters", "words", "words read", "distinct words"):
        assert f">{text}</text>" in page_text


def test_report_page_shows_markup_of_documents_as_text(page_text: str, shown: Page) -> None:
    assert "<script" not in page_text
    assert "<b>" not in page_text
    assert "\x00" not in page_text
    assert "\x1b" not in page_text
    assert '<script>alert(1)</script> & "<b>" </blockquote> \ufffd\ufffd[31m' in shown.text
    assert "x/<second>.parquet, row" in shown.text


def test_report_page_shows_the_numbers_of_the_report(report: Report, shown: Page) -> None:
    assert shown.cells("training tokens") == ["training tokens", "12,345"]
    assert shown.cells("bytes of text per token")[1] == "4.25"
    assert shown.cells("too_short")[3] == str(
        next(loss.documents for loss in report.losses if loss.reason == "too_short")
    )
    domain = next(item for item in report.domains.shares if item.name)
    cells = shown.cells(domain.name)
    assert (cells[2], cells[4]) == (str(domain.before), str(domain.after))
    assert "1.2 MB" in shown.text
    assert "Not counted in this corpus: text edits, personal data, overlap" in shown.text


def test_report_page_shows_further_counts_where_a_stage_has_them(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    report = write(corpus, tmp_path, edits={"<edit>": 5}, personal_data={}, contamination={"h": 2})
    assert (report.edits, report.personal_data) == ({"<edit>": 5}, {})
    shown = read_page((tmp_path / "report.html").read_text())
    assert shown.cells("<edit>") == ["<edit>", "5"]
    assert shown.cells("h") == ["h", "2"]
    assert "Not counted in this corpus" not in shown.text


def test_report_of_near_duplicates_shows_where_they_differ(
    corpus: SmallCorpus, tmp_path: Path
) -> None:
    (file, row, _), (kept_file, kept_row, _) = corpus.kept()[:2]
    near = {
        "file": file, "row": row, "id": "x", "kept_file": kept_file, "kept_row": kept_row,
        "kept_id": "x", "kind": "near", "jaccard": 0.72,
    }  # fmt: skip
    alien = {**near, "row": corpus.kept()[2][1], "file": corpus.kept()[2][0]}
    alien |= {"kind": "contaminated", "kept_file": "hellaswag", "kept_row": 7, "jaccard": None}
    table = pq.read_table(corpus.files.copies)
    more = pa.Table.from_pylist([near, alien], schema=table.schema)
    pq.write_table(pa.concat_tables([table, more]), tmp_path / "removed.parquet")
    files = replace(corpus.files, copies=tmp_path / "removed.parquet")
    report = write(replace(corpus, files=files), tmp_path / "out")
    pairs = {pair.kind: pair for pair in report.pairs}
    assert pairs["near"].jaccard == 0.72
    assert pairs["contaminated"].kept.text is None
    assert pairs["contaminated"].removed.text
    similar = {item.kind: (item.least, item.documents) for item in report.similarities}
    assert similar["near"] == (0.7, 1)
    html = (tmp_path / "out" / "report.html").read_text()
    shown = read_page(html)
    assert "near, Jaccard 0.720" in shown.text
    assert "contaminated, Jaccard not measured" in shown.text
    assert "no text at hand" in shown.text
    assert shown.elements["mark"] > 0


def test_report_of_a_corpus_with_one_document_left(tmp_path: Path) -> None:
    rows = [document(None), document("this one is long enough"), document("so is this one")]
    corpus = make_corpus(tmp_path / "corpus", {"only": rows})
    assert len(corpus.kept()) == 1
    report = write(corpus, tmp_path / "report")
    assert report.score.summary_after.documents == 1
    read_page((tmp_path / "report" / "report.html").read_text())


def test_report_of_a_corpus_without_documents(tmp_path: Path) -> None:
    corpus = make_corpus(
        tmp_path / "corpus", {"one": [document("a"), document("b")], "none": []}, min_words=9
    )
    report = write(corpus, tmp_path / "report")
    assert report.vocabulary.words == ()
    assert report.chars.summary_after.mean is None
    shown = read_page((tmp_path / "report" / "report.html").read_text())
    assert "There is no text." in shown.text


def test_report_of_a_damaged_file_names_it(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", {"one": make_documents(1, num=20)})
    part = corpus.files.parts["one"]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(SourceError, match=re.escape(str(part))):
        write(corpus, tmp_path / "report")


def test_length_bins_hold_every_length_once() -> None:
    edges = length_edges()
    assert edges[:10] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
    assert list(edges) == sorted(set(edges))
    found = Occurrences(np.array([0, 9, 10, 2**31]), np.array([1, 2, 3, 4]))
    counts = bin_counts(found, edges)
    assert counts[0] == 1
    assert counts[8] == 2
    assert counts[9] == 3
    assert counts[-1] == 4
