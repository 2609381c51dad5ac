"""DuckDB connections: settings, bound paths, keys, and errors that name files and disks."""

import hashlib
import unicodedata
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import ConfigError, DiskSpaceError, SourceError
from tasks.corpus.duckdb_connection import (
    SQL_DIRECTORY,
    Limits,
    fetch_one,
    parquet_path,
    read_sql,
    reading,
    write_parquet,
)

MEGABYTE = 1_000_000


@pytest.fixture
def limits(tmp_path):
    return Limits(memory_bytes=500 * MEGABYTE, threads=2, spill_directory=tmp_path / "it's spill")


def write_texts(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)
    return path


def read_texts(connection, path: Path) -> list[str]:
    query = "SELECT text FROM read_parquet($path, hive_partitioning = false)"
    return [text for (text,) in connection.execute(query, {"path": parquet_path(path)}).fetchall()]


def test_connect_settings_given_are_applied(limits):
    with limits.connect() as connection:
        names = ("threads", "preserve_insertion_order", "autoinstall_known_extensions")
        found = [fetch_one(connection, f"SELECT current_setting('{name}')")[0] for name in names]
        (limit,) = fetch_one(connection, "SELECT current_setting('memory_limit')")
    assert found == [2, True, False]
    assert limit == "476.8 MiB"  # 500 * 10**6 / 2**20


def test_connect_spilled_data_is_removed_and_other_files_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with Limits(20 * MEGABYTE, 1, tmp_path).connect() as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT md5(range::VARCHAR) AS h FROM range(500000) ORDER BY h"
        )
        (spill,) = tmp_path.glob("duckdb-*")
        assert sum(path.stat().st_size for path in spill.iterdir()) > MEGABYTE
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_connect_spilling_fills_disk_raises_disk_space_error(tmp_path):
    def fill() -> None:
        with Limits(60 * MEGABYTE, 1, tmp_path).connect() as connection:
            connection.execute("SET max_temp_directory_size = '5MB'")
            connection.execute(
                "CREATE TABLE t AS SELECT md5(range::VARCHAR) h FROM range(2000000) ORDER BY h"
            )

    with pytest.raises(DiskSpaceError, match=r"(?s)the disk is full.*free disk space"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_write_parquet_full_device_raises_disk_space_error(limits):
    with (
        pytest.raises(DiskSpaceError, match=r"(?s)the disk is full.*/dev/full"),
        limits.connect() as connection,
    ):
        write_parquet(connection, "SELECT 1 AS x", values={}, destination=Path("/dev/full"))


def test_connect_work_beyond_memory_raises_config_error_naming_setting(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"(?s)20,000,000 bytes.*run.memory_gb"),
        Limits(20 * MEGABYTE, 1, tmp_path).connect() as connection,
    ):
        connection.execute("SELECT list(md5(range::VARCHAR)) FROM range(2000000)").fetchall()


@pytest.mark.parametrize(
    "name",
    ['it\'s "quoted".parquet', "raw[1].parquet", "raw*.parquet", "raw?.parquet", "a ~ b.parquet"],
)
def test_parquet_path_odd_name_beside_names_it_would_match_reads_itself(limits, tmp_path, name):
    for decoy in ("raw1.parquet", "raw2.parquet", "rawx.parquet"):
        write_texts(tmp_path / decoy, [decoy])
    path = write_texts(tmp_path / name, [name])
    with limits.connect() as connection:
        assert read_texts(connection, path) == [name]


def test_write_parquet_odd_destination_and_values_are_bound_and_round_trip(limits, tmp_path):
    destination = tmp_path / "it's $x; DROP.parquet"
    text = 'O\'Brien "said"; $destination'
    with limits.connect() as connection:
        num_rows = write_parquet(
            connection, "SELECT $text AS text", values={"text": text}, destination=destination
        )
        assert num_rows == 1
        assert read_texts(connection, destination) == [text]
        assert fetch_one(connection, "SELECT current_setting('threads')") == (2,)


def test_write_parquet_one_or_two_threads_give_the_same_bytes(tmp_path):
    source = tmp_path / "source.parquet"
    pq.write_table(pa.table({"i": range(60_000)}), source, row_group_size=2048)
    select = "SELECT i, md5(i::VARCHAR) AS h FROM read_parquet($source) WHERE i % 3 <> 0"
    files = []
    for threads in (1, 2):
        destination = tmp_path / f"{threads}.parquet"
        files.append(destination)
        with Limits(100 * MEGABYTE, threads, tmp_path).connect() as connection:
            write_parquet(
                connection,
                select,
                values={"source": parquet_path(source)},
                destination=destination,
                row_group_rows=4096,
            )
    assert files[0].read_bytes() == files[1].read_bytes()
    assert pq.read_metadata(files[0]).row_group(0).num_rows == 4096


def test_reading_cut_file_raises_source_error_naming_it(limits, tmp_path):
    path = write_texts(tmp_path / "cut's.parquet", ["a", "b"])
    path.write_bytes(path.read_bytes()[:-20])
    other = write_texts(tmp_path / "fine.parquet", ["c"])
    with (
        limits.connect() as connection,
        pytest.raises(SourceError, match="cannot be read") as caught,
        reading(other, path),
    ):
        read_texts(connection, path)
    assert caught.value.where == str(path)


def test_reading_missing_file_raises_source_error_naming_it(limits, tmp_path):
    path = tmp_path / "absent.parquet"
    with (
        limits.connect() as connection,
        pytest.raises(SourceError, match=r"absent\.parquet"),
        reading(path),
    ):
        read_texts(connection, path)


def test_reading_damaged_page_raises_source_error(limits, tmp_path):
    path = write_texts(tmp_path / "damaged.parquet", ["abc" * 100, "def" * 100])
    damaged = bytearray(path.read_bytes())
    damaged[4:24] = b"\xff" * 20
    path.write_bytes(damaged)
    with (
        limits.connect() as connection,
        pytest.raises(SourceError, match=r"damaged\.parquet"),
        reading(path),
    ):
        read_texts(connection, path)


def test_reading_text_that_is_not_utf8_raises_source_error(limits, tmp_path):
    path = tmp_path / "latin1.parquet"
    raw = pa.array([b"caf\xe9"])
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 1, raw.buffers())}), path)
    with (
        limits.connect() as connection,
        pytest.raises(SourceError, match=r"(?s)not valid UTF8.*latin1"),
        reading(path),
    ):
        read_texts(connection, path)


def test_reading_mistake_in_statement_is_not_blamed_on_the_file(limits, tmp_path):
    path = write_texts(tmp_path / "fine.parquet", ["a"])
    with (
        limits.connect() as connection,
        pytest.raises(Exception, match="nonsense") as caught,
        reading(path),
    ):
        connection.execute("SELECT nonsense(1)")
    assert not isinstance(caught.value, SourceError)


def test_read_sql_every_file_has_a_header():
    names = [path.stem for path in SQL_DIRECTORY.glob("*.sql")]
    assert {"normalise", "documents", "copies"} <= set(names)
    assert [name for name in names if not read_sql(name).startswith("--")] == []


def python_key(text: str) -> uuid.UUID:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[::-1])  # DuckDB reads the digest as a little-endian number


def test_exact_key_text_is_md5_for_ever(limits):
    texts = ["", "a", "The quick brown fox", "naïve 日本 \n"]
    with limits.connect() as connection:
        for text in texts:
            found = fetch_one(connection, "SELECT exact_key($text)", {"text": text})[0]
            assert found == python_key(text)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Cat, sat.", "thecatsat"),
        ("the\tcat\r\n\n sat", "thecatsat"),
        ("«THE» “cat” — sat…", "thecatsat"),
        ("don't stop", "dontstop"),
        ("don’t stop", "dontstop"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("snake_case x2", "snake_casex2"),
        ("Ünïcode É 漢字 5€", "ünïcodeé漢字5€"),
        ("?! ...", ""),
    ],
)
def test_normalised_example_gives(limits, text, normalised):
    with limits.connect() as connection:
        found = fetch_one(
            connection, "SELECT normalised($text), normalised_key($text)", {"text": text}
        )
    assert found == (normalised, python_key(normalised or text))


def test_normalised_ascii_keeps_exactly_the_word_characters(limits):
    ascii_text = "".join(map(chr, range(1, 128)))
    expected = "".join(c for c in ascii_text if c.isalnum() or c == "_").lower()
    expected = expected.replace("_", "")
    with limits.connect() as connection:
        (found,) = fetch_one(connection, "SELECT normalised($text)", {"text": ascii_text})
    assert found.replace("_", "") == expected
    assert "_" in found


def test_normalised_listed_characters_are_never_letters_or_digits(limits):
    with limits.connect() as connection:
        (removed,) = fetch_one(connection, "SELECT getvariable('not_word_characters')")
    assert [c for c in removed if unicodedata.category(c)[0] in "LN"] == []
