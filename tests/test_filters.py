"""The document filter against a plain Python one, its counts, its outputs and its refusals."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import CorpusError, SourceError
from tasks.config import FilterConfig
from tasks.corpus.duck import Limits, fetch_one
from tasks.corpus.filters import LIGHT_REASONS, filter_file
from tasks.corpus.fineweb import FINEWEB_SCHEMA

CONFIG = FilterConfig(min_words=5, max_words=12, max_dropped_frac=1.0)
SPACES = [chr(code) for code in range(0x110000) if chr(code).isspace()]


@pytest.fixture
def limits(tmp_path):
    return Limits(memory_bytes=500_000_000, threads=2, spill_directory=tmp_path / "spill")


def document(text, *, language="en", language_score=0.9, **more):
    row = {"text": text, "language": language, "language_score": language_score, "id": "same id"}
    return {**dict.fromkeys(FINEWEB_SCHEMA.names), **row, **more}


def write_raw(path: Path, documents: list[dict], row_group_rows: int = 1000) -> Path:
    table = pa.Table.from_pylist(documents, schema=FINEWEB_SCHEMA)
    pq.write_table(table, path, row_group_size=row_group_rows)
    return path


def run(tmp_path, documents, limits, *, config=CONFIG, name="out"):
    raw = write_raw(tmp_path / "raw.parquet", documents)
    destination = tmp_path / name
    destination.mkdir()
    counts = filter_file(
        raw, file="sample/it's.parquet", config=config, destination=destination, limits=limits
    )
    part = pq.read_table(destination / "part.parquet")
    rejected = pq.read_table(destination / "rejected.parquet")
    return counts, part, rejected


def python_verdict(row: dict, config: FilterConfig) -> tuple[str, str] | None:
    text, language, score = row["text"], row["language"], row["language_score"]
    if text is None:
        return "null_text", "NULL"
    words = len(text.split())
    if words == 0:
        return "empty_text", f"{len(text)} characters of white space"
    if language is not None and language != config.language:
        return "language", language
    if language is not None and score is not None and score < config.min_language_score:
        return "language_score", f"{score} < {config.min_language_score}"
    if words < config.min_words:
        return "too_short", f"{words} words < {config.min_words}"
    if words > config.max_words:
        return "too_long", f"{words} words > {config.max_words}"
    return None


def test_filter_file_one_of_each_names_reason_and_value(tmp_path, limits):
    long_text = " ".join(["word"] * 13)
    documents = [
        document("one two three four five"),
        document(None),
        document(""),
        document(" \n\u00a0"),
        document("one two three four five", language="de"),
        document("one two three four five", language_score=0.41),
        document("one two"),
        document(long_text),
        document("ein zwei", language="de", language_score=0.1),
        document("one two three four five", language=None, language_score=None),
        document("one two three four five", language_score=None),
    ]
    counts, part, rejected = run(tmp_path, documents, limits)
    assert part["row"].to_pylist() == [0, 9, 10]
    assert [(r["row"], r["reason"], r["detail"]) for r in rejected.to_pylist()] == [
        (1, "null_text", "NULL"),
        (2, "empty_text", "0 characters of white space"),
        (3, "empty_text", "3 characters of white space"),
        (4, "language", "de"),
        (5, "language_score", "0.41 < 0.65"),
        (6, "too_short", "2 words < 5"),
        (7, "too_long", "13 words > 12"),
        (8, "language", "de"),
    ]
    assert (counts.num_in, counts.num_kept, counts.num_language_unknown) == (11, 3, 2)
    assert list(counts.num_dropped.values()) == [1, 2, 2, 1, 1, 1]
    assert tuple(counts.num_dropped) == LIGHT_REASONS
    assert counts.num_in == counts.num_kept + sum(counts.num_dropped.values())


def test_filter_file_output_columns_are_the_documented_ones(tmp_path, limits):
    kept = document("one two three four five", id="x", token_count=7, url="http://a", date="2020")
    _, part, rejected = run(tmp_path, [kept, document("")], limits)
    assert part.schema.names == [*FINEWEB_SCHEMA.names, "file", "row"]
    assert part.schema.types == [*FINEWEB_SCHEMA.types, pa.string(), pa.int64()]
    assert part.to_pylist() == [{**kept, "file": "sample/it's.parquet", "row": 0}]
    assert rejected.schema.names == ["file", "row", "id", "reason", "detail"]
    assert rejected.to_pylist()[0]["id"] == "same id"


def random_documents(count: int) -> list[dict]:
    chance = random.Random(5)
    words = ["a", "word", "~tilde", "\x7f", "日本", "'", "!", "\x01"]
    pieces = [*SPACES, *[" "] * 10, *words * 4]
    documents = []
    for _ in range(count):
        text = "".join(chance.choices(pieces, k=chance.choice([1, 1, 5, 20, 80])))
        language = chance.choice(["en", "en", "en", "de", None])
        score = chance.choice([0.9, 0.65, 0.6499999, None])
        documents.append(document(text, language=language, language_score=score))
    return documents


def test_filter_file_random_documents_agree_with_plain_python(tmp_path, limits):
    documents = random_documents(3000)
    counts, part, rejected = run(tmp_path, documents, limits)
    verdicts = [python_verdict(row, CONFIG) for row in documents]
    assert part["row"].to_pylist() == [i for i, verdict in enumerate(verdicts) if not verdict]
    assert part["text"].to_pylist() == [
        row["text"] for row, verdict in zip(documents, verdicts, strict=True) if not verdict
    ]
    found = [(r["row"], r["reason"], r["detail"]) for r in rejected.to_pylist()]
    assert found == [(i, *verdict) for i, verdict in enumerate(verdicts) if verdict]
    assert {reason for reason, count in counts.num_dropped.items() if not count} == {"null_text"}


def test_word_count_every_white_space_agrees_with_str_split(limits):
    texts = [f"a{space}b{space}{space} c" for space in SPACES] + ["a\u200bb", "a\ufeffb", "\x00 b"]
    with limits.connect() as connection:
        for text in texts:
            query = "SELECT word_count($text), is_blank($text), has_words($text, 3)"
            words = len(text.split())
            expected = (words, words == 0, words >= 3)
            assert fetch_one(connection, query, {"text": text}) == expected, repr(text)
        for space in SPACES:
            assert fetch_one(connection, "SELECT is_blank($text)", {"text": space}) == (True,)


def test_has_words_start_of_blanks_or_long_words_still_counts_all(limits):
    late = " " * 5000 + " ".join("word" for _ in range(50))
    long_words = " ".join("w" * 100 for _ in range(50))
    with limits.connect() as connection:
        for text in (late, long_words):
            found = fetch_one(
                connection, "SELECT has_words($t, 50), has_words($t, 51)", {"t": text}
            )
            assert found == (True, False)


@pytest.mark.parametrize(("words", "exceeds"), [(12, False), (13, True)])
def test_exceeds_words_shortest_text_of_so_many_words(limits, words, exceeds):
    text = " ".join("w" * words)
    with limits.connect() as connection:
        assert fetch_one(connection, "SELECT exceeds_words($t, 12)", {"t": text}) == (exceeds,)


def test_filter_file_no_documents_writes_empty_tables(tmp_path, limits):
    counts, part, rejected = run(tmp_path, [], limits)
    assert (counts.num_in, counts.num_kept, sum(counts.num_dropped.values())) == (0, 0, 0)
    assert part.num_rows == rejected.num_rows == 0
    assert part.schema.names == [*FINEWEB_SCHEMA.names, "file", "row"]


def test_filter_file_folder_named_like_a_partition_changes_nothing(tmp_path, limits):
    folder = tmp_path / "language=de" / "dump=x"
    folder.mkdir(parents=True)
    counts, part, _ = run(folder, [document("one two three four five", dump="mine")], limits)
    assert counts.num_kept == 1
    assert part["dump"].to_pylist() == ["mine"]


def test_filter_file_any_threads_and_memory_give_the_same_bytes(tmp_path):
    words = random.Random(7)
    documents = [
        document(" ".join(str(words.getrandbits(40)) for _ in range(words.randrange(3, 20))))
        for _ in range(12_000)
    ]
    raw = write_raw(tmp_path / "raw.parquet", documents, row_group_rows=2048)
    outputs = set()
    for threads, megabytes in ((1, 2000), (2, 100)):
        destination = tmp_path / f"{threads}-{megabytes}"
        destination.mkdir()
        settings = Limits(megabytes * 1_000_000, threads, tmp_path / "spill")
        config = FilterConfig(min_words=5)
        filter_file(raw, file="f", config=config, destination=destination, limits=settings)
        names = ("part.parquet", "rejected.parquet")
        outputs.add(tuple((destination / name).read_bytes() for name in names))
    assert len(outputs) == 1
    metadata = pq.read_metadata(destination / "part.parquet")
    assert metadata.num_row_groups > 1


def test_filter_file_too_many_dropped_raises_corpus_error_with_funnel(tmp_path, limits):
    documents = [document("one two three four five"), *[document("short")] * 3]
    config = CONFIG.model_copy(update={"max_dropped_frac": 0.5})
    with pytest.raises(CorpusError, match=r"drops 75\.0%") as caught:
        run(tmp_path, documents, limits, config=config)
    words = str(caught.value)
    assert "4 documents in" in words
    assert "-3 too_short" in words
    assert "1 kept" in words
    assert "filter.max_dropped_frac" in words


def test_filter_file_share_at_limit_passes(tmp_path, limits):
    documents = [document("one two three four five"), document("short")]
    config = CONFIG.model_copy(update={"max_dropped_frac": 0.5})
    assert run(tmp_path, documents, limits, config=config)[0].num_kept == 1


def test_filter_file_cut_raw_file_raises_source_error_naming_it(tmp_path, limits):
    raw = write_raw(tmp_path / "raw.parquet", [document("one two three four five")])
    raw.write_bytes(raw.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"raw\.parquet"):
        filter_file(raw, file="f", config=CONFIG, destination=tmp_path, limits=limits)


def test_filter_file_real_text_agrees_with_plain_python_and_keeps_clean_rows(
    tmp_path, limits, shared_data
):
    planted = shared_data / "web_planted"
    raw, config = planted / "000_00000.parquet", FilterConfig()
    filter_file(raw, file="f", config=config, destination=tmp_path, limits=limits)
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    documents = pq.read_table(raw).to_pylist()
    verdicts = [python_verdict(row, config) for row in documents]
    found = [(r["row"], r["reason"], r["detail"]) for r in rejected]
    assert found == [(i, *verdict) for i, verdict in enumerate(verdicts) if verdict]
    truth = pq.read_table(planted / "truth.parquet", columns=["id", "kind"]).to_pylist()
    clean = {row["id"] for row in truth if row["kind"] == "clean"}
    assert clean.isdisjoint(row["id"] for row in rejected)
