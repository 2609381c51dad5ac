"""The tokenizer's text sample: bounded, seeded, even over files, without validation rows."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceError
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.text_sample import sample_text

Row = tuple[str, int, str]


@pytest.fixture
def limits(tmp_path):
    return Limits(memory_bytes=500_000_000, threads=2, spill_directory=tmp_path / "spill")


def write(path: Path, rows: list[Row]) -> Path:
    columns = {
        "file": pa.array([file for file, _, _ in rows], pa.string()),
        "row": pa.array([row for _, row, _ in rows], pa.int64()),
        "text": pa.array([text for _, _, text in rows], pa.string()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=64)
    return path


def documents(file: str, count: int) -> list[Row]:
    return [(file, 2 * i, f"{file} text {i} " + "x" * (i % 50)) for i in range(count)]


def sample(tmp_path, parts: list[list[Row]], limits, *, validation=(), seed=1, **bounds):
    paths = [write(tmp_path / f"part{i}.parquet", rows) for i, rows in enumerate(parts)]
    held_out = write(tmp_path / "validation.parquet", list(validation))
    sizes = {"sample_bytes": 10**9, "max_document_bytes": 10**6, **bounds}
    return list(sample_text(paths, held_out, seed=seed, limits=limits, **sizes))


def python_sample(rows: list[Row], *, sample_bytes: int, max_document_bytes: int, seed: int):
    def place(row: Row) -> int:
        text = f"{seed}:{row[1]}:{row[0]}"
        return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest(), "little")

    taken, total = set(), 0
    for row in sorted(rows, key=place):
        total += min(len(row[2].encode()), max_document_bytes)
        if total > sample_bytes:
            break
        taken.add(row[:2])
    return [row[2] for row in rows if row[:2] in taken]


def test_sample_text_small_corpus_yields_everything_in_order(tmp_path, limits):
    parts = [documents("a", 300), documents("b", 5), []]
    assert sample(tmp_path, parts, limits) == [text for part in parts for _, _, text in part]


def test_sample_text_bounded_agrees_with_plain_python(tmp_path, limits):
    parts = [documents("a", 700), documents("b", 700)]
    bounds = {"sample_bytes": 12_000, "max_document_bytes": 40}
    found = sample(tmp_path, parts, limits, seed=5, **bounds)
    expected = python_sample([*parts[0], *parts[1]], seed=5, **bounds)
    assert found == [text[:40] for text in expected]
    assert 11_900 < sum(map(len, found)) <= 12_000


def test_sample_text_equal_files_are_drawn_from_evenly(tmp_path, limits):
    parts = [documents(name, 1000) for name in "abcd"]
    found = sample(tmp_path, parts, limits, sample_bytes=40_000)
    shares = [sum(text.startswith(name) for text in found) / len(found) for name in "abcd"]
    assert min(shares) > 0.2  # a quarter each; four standard deviations are 0.055


def test_sample_text_larger_sample_contains_smaller(tmp_path, limits):
    parts = [documents("a", 500)]
    small, large = (sample(tmp_path, parts, limits, sample_bytes=n) for n in (2000, 6000))
    assert set(small) < set(large)


def test_sample_text_other_seed_differs_and_same_repeats(tmp_path, limits):
    parts = [documents("a", 500)]
    found = [sample(tmp_path, parts, limits, sample_bytes=2000, seed=seed) for seed in (1, 2, 1)]
    assert found[0] == found[2] != found[1]


def test_sample_text_validation_rows_are_left_out_by_file_and_row(tmp_path, limits):
    rows = documents("a", 10)
    twin = ("b", 4, "b stays though row 4 of a goes")
    found = sample(tmp_path, [rows, [twin]], limits, validation=[rows[2], ("a", 999, "not here")])
    assert found == [row[2] for row in rows if row != rows[2]] + [twin[2]]


def test_sample_text_validation_rows_take_no_share_of_the_bytes(tmp_path, limits):
    rows = [("a", i, "x" * 100) for i in range(20)]
    found = sample(tmp_path, [rows], limits, validation=rows[:10], sample_bytes=1000)
    assert found == ["x" * 100] * 10


@pytest.mark.parametrize(
    ("max_document_bytes", "expected"),
    [(3, "aé"), (2, "a"), (6, "aé日"), (7, "aé日"), (9, "aé日本")],
)
def test_sample_text_long_document_is_cut_between_characters(
    tmp_path, limits, max_document_bytes, expected
):
    found = sample(tmp_path, [[("a", 0, "aé日本")]], limits, max_document_bytes=max_document_bytes)
    assert found == [expected]


@pytest.mark.parametrize("threads", [1, 2])
def test_sample_text_many_row_groups_stream_in_row_order(tmp_path, threads):
    settings = Limits(200_000_000, threads, tmp_path / "spill")
    rows = [("a", i, f"{i}") for i in range(20_000)]
    assert sample(tmp_path, [rows], settings) == [text for _, _, text in rows]


def test_sample_text_nothing_fits_raises_corpus_error_with_numbers(tmp_path, limits):
    with pytest.raises(CorpusError, match="no text to train the tokenizer on") as caught:
        sample(tmp_path, [[("a", 0, "x" * 100)]], limits, sample_bytes=50)
    assert "1 documents" in str(caught.value)
    assert "tokenizer.sample_bytes" in str(caught.value)


def test_sample_text_cut_part_raises_source_error_naming_it(tmp_path, limits):
    part = write(tmp_path / "cut.parquet", documents("a", 3))
    part.write_bytes(part.read_bytes()[:-9])
    validation = write(tmp_path / "validation.parquet", [])
    texts = sample_text(
        [part], validation, sample_bytes=9, max_document_bytes=9, seed=1, limits=limits
    )
    with pytest.raises(SourceError, match=r"cut\.parquet"):
        next(texts)
