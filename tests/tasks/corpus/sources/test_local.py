"""tasks.corpus.sources.local: files found, read, cast and refused."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from model.core.errors import ConfigError, SourceError, SourceRecordError, SourceSchemaError
from model.core.files import file_sha256
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.sources.source_files import fetch_file, list_files
from tests.support.source_files import (
    as_jsonl,
    fetch_all,
    fetch_rows,
    local,
    make_rows,
    write_lines,
    write_parquet,
)


def test_local_formats_give_equal_rows_and_bytes(tmp_path: Path) -> None:
    rows = make_rows(2_345)
    blob = as_jsonl(rows)
    wide = FINEWEB_SCHEMA.set(0, pa.field("text", pa.large_string()))
    uneven = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=wide), uneven, row_group_size=170)
    contents = {
        "pages.jsonl": blob,
        "pages.jsonl.gz": gzip.compress(blob[:9_000]) + gzip.compress(blob[9_000:]),
        "pages.jsonl.zst": zstandard.compress(blob),
        "pages.parquet": uneven.getvalue().to_pybytes(),
    }
    raws = []
    for name, content in contents.items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        [(got, raw)] = fetch_all(local(folder), tmp_path / f"got {name}")
        assert pq.read_table(raw).to_pylist() == rows
        assert (got.num_rows, got.num_skipped_records, got.partial) == (2_345, 0, False)
        raws.append(raw.read_bytes())
    assert raws[0] == raws[1] == raws[2] == raws[3]
    groups = pq.ParquetFile(pa.BufferReader(raws[0])).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [
        1_000,
        1_000,
        345,
    ]


def test_local_fineweb_parquet_is_linked_not_copied(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "in/pages.parquet", make_rows(10))
    [(got, raw)] = fetch_all(local(tmp_path / "in"), tmp_path)
    assert raw.samefile(path)
    assert got.sha256 == file_sha256(path)


def test_local_fineweb_parquet_with_a_mapping_is_not_linked(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "pages.parquet", make_rows(1))
    [row] = fetch_rows(local(path, columns={"text": "url"}), tmp_path)
    assert row == make_rows(1)[0] | {"text": "https://example.org/0"}


def test_local_columns_are_mapped_cast_and_filled(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("content", pa.large_string()),
            ("score", pa.float32()),
            ("language", pa.dictionary(pa.int8(), pa.string())),
            ("id", pa.int32()),
            ("other", pa.bool_()),
        ]
    )
    rows = [{"content": "One.", "score": 0.5, "language": "en", "id": 7, "other": True}]
    path = write_parquet(tmp_path / "pages.parquet", rows, schema)
    columns = {"text": "content", "language_score": "score"}
    [row] = fetch_rows(local(path, columns=columns), tmp_path / "got")
    expected = {"text": "One.", "language_score": 0.5, "language": "en", "id": "7"}
    assert row == dict.fromkeys(FINEWEB_SCHEMA.names) | expected
    jsonl = write_lines(tmp_path / "pages.jsonl", [json.dumps(rows[0]).encode()])
    assert fetch_rows(local(jsonl, columns=columns), tmp_path / "lines") == [row]


def test_local_missing_ids_are_made_of_path_and_row(tmp_path: Path) -> None:
    lines = [b'{"text": "same"}'] * 1_500
    write_lines(tmp_path / "a.jsonl", lines)
    write_lines(tmp_path / "b.jsonl", lines)
    glob = local(tmp_path / "*.jsonl")
    ids = [row["id"] for row in fetch_rows(glob, tmp_path / "one")]
    assert len(set(ids)) == 3_000
    assert ids == [row["id"] for row in fetch_rows(glob, tmp_path / "two")]
    assert ids[0].startswith("<urn:uuid:")


def test_local_missing_text_column_names_file_columns_and_fix(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "p.parquet", [{"body": "x"}], pa.schema([("body", pa.string())])
    )
    with pytest.raises(SourceSchemaError, match="lacks the column 'text'") as caught:
        fetch_all(local(path), tmp_path)
    assert (caught.value.found, caught.value.where) == ("columns body", path)
    assert 'source.columns={"text": "<column of the file>"}' in str(caught.value)


@pytest.mark.parametrize("column", ["text", "language_score"])
def test_local_column_of_wrong_type_is_refused(tmp_path: Path, column: str) -> None:
    wrong = pa.schema([("text", pa.string()), ("language_score", pa.float64())])
    wrong = wrong.set(wrong.get_field_index(column), pa.field(column, pa.list_(pa.string())))
    row = {"text": "x", "language_score": 0.5} | {column: ["x"]}
    path = write_parquet(tmp_path / "p.parquet", [row], wrong)
    with pytest.raises(SourceSchemaError, match=rf"'{column}'[\s\S]*list<") as caught:
        fetch_all(local(path), tmp_path)
    assert caught.value.where == path


def test_local_mapping_of_unknown_column_is_a_config_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b'{"text": "x"}'])
    with pytest.raises(ConfigError, match=r"txet[\s\S]*source\.columns"):
        fetch_all(local(path, columns={"txet": "content"}), tmp_path)


BROKEN_LINES = {
    "not json": (b'{"text": "cut', r"no JSON \(Invalid control character at: character 14\)"),
    "an array": (b'["text"]', "a JSON list"),
    "a number as text": (b'{"text": 5}', "found: int"),
    "null text": (b'{"text": null}', "found: NoneType"),
    "no text": (b'{"content": "x", "n": 1}', r"no such key \(keys: content, n\)"),
    "invalid utf-8": (b'{"text": "\xff"}', "UTF-8"),
    "half a surrogate pair": (b'{"text": "\\ud800"}', "surrogate"),
    "a list as score": (b'{"text": "x", "language_score": [1]}', "language_score"),
    "a huge count": (b'{"text": "x", "token_count": 1' + b"0" * 30 + b"}", "token_count"),
    "too deep": (b'{"text": ' + b"[" * 100_000, "no JSON"),
}


@pytest.mark.parametrize("kind", BROKEN_LINES)
def test_local_broken_line_fails_naming_its_number_or_is_counted(tmp_path: Path, kind: str) -> None:
    line, words = BROKEN_LINES[kind]
    path = write_lines(tmp_path / "a.jsonl", [b'{"text": "one"}', b"", line, b'{"text": "two"}'])
    with pytest.raises(SourceRecordError, match=words) as caught:
        fetch_all(local(path), tmp_path)
    assert caught.value.where == f"{path}, line 3"
    assert "source.on_broken_record=skip" in str(caught.value)
    assert not list((tmp_path / "fetched/a.jsonl").iterdir())
    [(got, raw)] = fetch_all(local(path, on_broken_record="skip"), tmp_path / "skip")
    assert pq.read_table(raw)["text"].to_pylist() == ["one", "two"]
    assert (got.num_rows, got.num_skipped_records) == (2, 1)


def test_local_file_of_only_broken_lines_fails_even_with_skip(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b'{"txt": "x"}'] * 3)
    with pytest.raises(SourceRecordError, match="line 1"):
        fetch_all(local(path, on_broken_record="skip"), tmp_path)


def test_local_overlong_line_is_one_broken_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.corpus.sources.jsonl.MAX_LINE_BYTES", 100)
    long = b'{"text": "' + b"x" * 450 + b'"}'
    path = write_lines(tmp_path / "a.jsonl", [b'{"text": "one"}', long, b'{"text": "two"}'])
    [(got, raw)] = fetch_all(local(path, on_broken_record="skip"), tmp_path)
    assert pq.read_table(raw)["text"].to_pylist() == ["one", "two"]
    assert got.num_skipped_records == 1


def test_local_parquet_text_that_is_no_utf8_fails_or_is_counted(tmp_path: Path) -> None:
    text = pa.array([b"one", b"\xff\xfe", b"two"]).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": text}), path)
    with pytest.raises(SourceRecordError, match=r"UTF-8[\s\S]*a\.parquet, row 1"):
        fetch_all(local(path), tmp_path)
    [(got, raw)] = fetch_all(local(path, on_broken_record="skip"), tmp_path / "skip")
    assert pq.read_table(raw)["text"].to_pylist() == ["one", "two"]
    assert got.num_skipped_records == 1


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz", "jsonl.zst"])
def test_local_cut_off_file_raises_naming_it(tmp_path: Path, suffix: str) -> None:
    whole = write_parquet(tmp_path / "whole.parquet", make_rows(500)).read_bytes()
    blob = as_jsonl(make_rows(500))
    contents = {
        "parquet": whole,
        "jsonl.gz": gzip.compress(blob),
        "jsonl.zst": zstandard.compress(blob),
    }
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(contents[suffix][: len(contents[suffix]) * 3 // 4])
    with pytest.raises(SourceError, match="is it cut off") as caught:
        fetch_all(local(path), tmp_path)
    assert str(path) in str(caught.value.where)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "not there"),
        ("nowhere/*.parquet", "no files to read"),
        ("empty", "no files to read"),
    ],
)
def test_local_path_without_files_is_refused(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(SourceError, match=words):
        list_files(local(tmp_path / path), data_seed=1, cache=tmp_path / "cache")


def test_local_source_without_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a path[\s\S]*no source.path"):
        local("")


def test_local_folder_is_searched_below_without_hidden_or_label_files(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("b/x.parquet", "a.parquet", ".hidden/y.parquet", "truth.parquet", "b/.z.parquet"):
        write_parquet(root / name, make_rows(3))
    (root / "c.jsonl").write_bytes(as_jsonl(make_rows(3)))
    files = list_files(local(root), data_seed=1, cache=tmp_path / "cache")
    assert [file.path for file in files] == ["a.parquet", "b/x.parquet", "c.jsonl"]
    assert [file.name for file in files] == ["a", "b-x", "c.jsonl"]
    assert files[0].digest == file_sha256(root / "a.parquet")
    assert str(tmp_path) not in "".join(file.model_dump_json() for file in files)


def test_local_glob_over_folders_keeps_paths_from_its_fixed_part(tmp_path: Path) -> None:
    for name in ("in/one/x.parquet", "in/two/x.parquet", "in/two/deep/x.parquet"):
        write_parquet(tmp_path / name, make_rows(3))
    near = list_files(local(tmp_path / "in/*/x.parquet"), data_seed=1, cache=tmp_path / "cache")
    assert [file.path for file in near] == ["one/x.parquet", "two/x.parquet"]
    deep = list_files(local(tmp_path / "in/**/x.parquet"), data_seed=1, cache=tmp_path / "cache")
    assert [file.name for file in deep] == ["one-x", "two-deep-x", "two-x"]


def test_local_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a/b.parquet", make_rows(1))
    write_parquet(tmp_path / "a-b.parquet", make_rows(1))
    with pytest.raises(SourceError, match=r"same name[\s\S]*a-b\.parquet, a/b\.parquet"):
        list_files(local(tmp_path), data_seed=1, cache=tmp_path / ".cache")


def test_local_limit_counts_parquet_rows_and_lines(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_parquet(root / "a.parquet", make_rows(150))
    (root / "b.jsonl").write_bytes(b"\n" + as_jsonl(make_rows(50, first=150)))
    (root / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(make_rows(50, first=200))))
    source = local(root, max_documents=220)
    files = list_files(source, data_seed=1, cache=tmp_path / "cache")
    assert [(file.take_rows, file.num_rows) for file in files] == [
        (None, 150),
        (None, 50),
        (20, 50),
    ]
    assert fetch_rows(source, tmp_path / "got") == make_rows(220)
    cut = local(root, max_documents=130)
    [(got, _)] = fetch_all(cut, tmp_path / "cut")
    assert (got.num_rows, got.partial) == (130, True)
    assert fetch_rows(cut, tmp_path / "cut") == make_rows(130)


def test_local_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b'{"text": "one"}'])
    stat = path.stat()

    def digest() -> str:
        return list_files(local(path), data_seed=1, cache=tmp_path / "cache")[0].digest

    before = digest()
    with path.open("r+b") as stream:  # same inode, size and time: not to be told apart by stat
        stream.write(b'{"text": "two"}')
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest() == before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert digest() == file_sha256(path) != before


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_local_file_changed_since_it_was_listed_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"

    def write(rows: list[dict[str, Any]]) -> None:
        path.unlink(missing_ok=True)
        if suffix == "parquet":
            write_parquet(path, rows)
        else:
            path.write_bytes(as_jsonl(rows))

    write(make_rows(3))
    [file] = list_files(local(path), data_seed=1, cache=tmp_path / "cache")
    write(make_rows(4))
    with pytest.raises(SourceError, match="changed after it was listed") as caught:
        fetch_file(local(path), file, data_seed=1, destination=tmp_path)
    assert file.digest in str(caught.value.expected)
    path.unlink()
    with pytest.raises(SourceError, match="not there"):
        fetch_file(local(path), file, data_seed=1, destination=tmp_path)
