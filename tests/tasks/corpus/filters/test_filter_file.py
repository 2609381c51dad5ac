"""The document filter against a plain Python one, its counts, its outputs and its refusals."""

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceError
from tasks.config.corpus import FilterConfig, PersonalDataConfig
from tasks.corpus.duckdb_connection import Limits, fetch_one
from tasks.corpus.filters import filter_file as filtering
from tasks.corpus.filters.filter_file import LIGHT_REASONS, filter_file, reasons_of
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tests.support.plain_text import GOOD

CONFIG = FilterConfig(min_words=5, max_words=12, max_dropped_frac=1.0, score_language="never")
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


def test_filter_file_too_many_dropped_names_rejected_rows_by_full_path(tmp_path, limits):
    with pytest.raises(CorpusError) as caught:
        run(tmp_path, [document("short")], limits, config=FilterConfig())
    path = tmp_path / "out" / "rejected.parquet"
    assert f"look at {path}" in str(caught.value)
    assert path.is_absolute()
    assert pq.read_table(path).num_rows == 1


def test_filter_file_share_at_limit_passes(tmp_path, limits):
    documents = [document("one two three four five"), document("short")]
    config = CONFIG.model_copy(update={"max_dropped_frac": 0.5})
    assert run(tmp_path, documents, limits, config=config)[0].num_kept == 1


def test_filter_file_cut_raw_file_raises_source_error_naming_it(tmp_path, limits):
    raw = write_raw(tmp_path / "raw.parquet", [document("one two three four five")])
    raw.write_bytes(raw.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"raw\.parquet"):
        filter_file(raw, file="f", config=CONFIG, destination=tmp_path, limits=limits)


FINEWEB = FilterConfig(profile="fineweb", min_words=20, max_dropped_frac=1.0)


def test_filter_file_quality_profile_edits_keeps_and_names_reasons(tmp_path, limits):
    documents = [
        document(f"Home\n\n{GOOD}\nWe use cookies here.\nThis is known.[1]", url="http://a"),
        document(GOOD, language="de"),
        document("too few words"),
        document(f"{GOOD}\nfunction () {{ return }}"),
        document(GOOD),
        document(None),
    ]
    counts, part, rejected = run(tmp_path, documents, limits, config=FINEWEB)
    assert part["row"].to_pylist() == [0, 4]
    assert part["text"].to_pylist() == [f"{GOOD}\nThis is known.", GOOD]
    assert part["url"].to_pylist() == ["http://a", None]
    assert [tuple(row.values()) for row in rejected.to_pylist()] == [
        ("sample/it's.parquet", 1, "same id", "language", "de"),
        ("sample/it's.parquet", 2, "same id", "too_short", "3 words < 20"),
        ("sample/it's.parquet", 3, "same id", "c4_curly_bracket", "line 9"),
        ("sample/it's.parquet", 5, "same id", "null_text", "NULL"),
    ]
    assert tuple(counts.num_dropped) == reasons_of(FINEWEB)
    assert counts.num_in == counts.num_kept + sum(counts.num_dropped.values()) == 6
    assert dict(+counts.edits) == {
        "documents": 1,
        "citations": 1,
        "lines: c4_blank": 1,
        "lines: c4_few_words": 1,
        "lines: c4_policy": 1,
    }
    assert "1 of them edited" in counts.funnel()
    assert "-1 lines c4_policy" in counts.funnel()


@pytest.mark.parametrize(("profile", "lines"), [("fineweb", 9), ("strict", 8)])
def test_filter_file_strict_profile_drops_open_lines(tmp_path, limits, profile, lines):
    config = FINEWEB.model_copy(update={"profile": profile})
    text = f"{GOOD}\nthis line has no end"
    _, part, _ = run(tmp_path, [document(text)], limits, config=config)
    assert len(part["text"][0].as_py().splitlines()) == lines


def test_filter_file_quality_profile_writes_the_columns_of_the_light_one(tmp_path, limits):
    documents = [document(GOOD, token_count=3), document("short")]
    light = run(tmp_path, documents, limits, config=FilterConfig(max_dropped_frac=1.0))
    full = run(tmp_path, documents, limits, config=FINEWEB, name="full")
    for ours, theirs in zip(full[1:], light[1:], strict=True):
        assert ours.schema.names == theirs.schema.names
        assert ours.schema.types == theirs.schema.types
    assert full[1].to_pylist() == light[1].to_pylist()


def test_filter_file_quality_profile_agrees_with_light_rules(tmp_path, limits):
    documents = random_documents(3000)
    config = CONFIG.model_copy(update={"profile": "fineweb"})
    _, _, light = run(tmp_path, documents, limits)
    counts, _, full = run(tmp_path, documents, limits, config=config, name="full")
    rows = [row for row in full.to_pylist() if row["reason"] in LIGHT_REASONS]
    assert rows == light.to_pylist()
    assert full["row"].to_pylist() == sorted(full["row"].to_pylist())
    assert counts.num_kept == 0  # texts of twelve words or fewer have too few sentences


def test_filter_file_quality_profile_no_documents_writes_empty_tables(tmp_path, limits):
    counts, part, rejected = run(tmp_path, [], limits, config=FINEWEB)
    assert (counts.num_in, counts.num_kept) == (0, 0)
    assert part.num_rows == rejected.num_rows == 0
    assert part.schema.names == [*FINEWEB_SCHEMA.names, "file", "row"]
    assert rejected.schema.names == ["file", "row", "id", "reason", "detail"]


def test_filter_file_quality_profile_long_and_one_word_documents(tmp_path, limits):
    chance = random.Random(9)
    words = [
        f"{chance.getrandbits(30):x}".translate(str.maketrans("0123456789", "ghijklmnop"))
        for _ in range(9000)
    ]
    lines = (" ".join(["the", *chance.choices(words, k=9), "of."]) for _ in range(5500))
    novel = "\n".join(lines)
    assert len(novel) > 400_000
    documents = [document(novel), document("w" * 400_000), document(GOOD)]
    config = FINEWEB.model_copy(update={"min_words": 1})
    _, part, rejected = run(tmp_path, documents, limits, config=config)
    assert rejected["reason"].to_pylist() == ["gopher_word_length"]
    assert part["row"].to_pylist() == [0, 2]


def test_filter_file_quality_profile_any_threads_and_memory_give_the_same_bytes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(filtering, "TEXT_ROW_GROUP_ROWS", 1000)
    names = random.Random(7)
    documents = [document(f"{GOOD} {names.getrandbits(40):x}") for _ in range(3_000)]
    raw = write_raw(tmp_path / "raw.parquet", documents, row_group_rows=500)
    outputs = set()
    for threads, megabytes in ((1, 2000), (2, 200)):
        destination = tmp_path / f"{threads}-{megabytes}"
        destination.mkdir()
        settings = Limits(megabytes * 1_000_000, threads, tmp_path / "spill")
        filter_file(raw, file="f", config=FINEWEB, destination=destination, limits=settings)
        outputs.add((destination / "part.parquet").read_bytes())
    assert len(outputs) == 1
    assert pq.read_metadata(destination / "part.parquet").num_row_groups > 1


def test_filter_file_quality_profile_damaged_text_raises_source_error(tmp_path, limits):
    documents = [document(f"{GOOD} {i}") for i in range(3000)]
    raw = write_raw(tmp_path / "raw.parquet", documents)
    data = bytearray(raw.read_bytes())
    text = pq.read_metadata(raw).row_group(2).column(0)
    start = text.dictionary_page_offset or text.data_page_offset
    for place in range(start + 40, start + text.total_compressed_size):
        data[place] ^= 0x5A
    raw.write_bytes(data)
    with pytest.raises(SourceError, match=r"raw\.parquet"):
        filter_file(raw, file="f", config=FINEWEB, destination=tmp_path, limits=limits)


def test_filter_file_planted_text_quality_rules_catch_spam_and_keep_clean_rows(
    tmp_path, limits, shared_data
):
    planted = shared_data / "web_planted"
    config = FilterConfig(profile="fineweb")
    raw = planted / "000_00000.parquet"
    filter_file(raw, file="f", config=config, destination=tmp_path, limits=limits)
    rows = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    reasons = {row["id"]: row["reason"] for row in rows}
    truth = pq.read_table(planted / "truth.parquet", columns=["id", "kind"]).to_pylist()
    ids = set(pq.read_table(raw, columns=["id"])["id"].to_pylist())
    kinds = {row["id"]: row["kind"] for row in truth if row["id"] in ids}
    seen = Counter(kinds.values())
    dropped = Counter(kind for key, kind in kinds.items() if key in reasons)
    assert dropped["spam"] > 0.8 * seen["spam"] > 0
    assert dropped["source_code"] > 0.8 * seen["source_code"] > 0
    # Passages full of years and commas have too few words with a letter; the rest is kept.
    clean = Counter(
        reasons[key] for key, kind in kinds.items() if kind == "clean" and key in reasons
    )
    assert clean.total() - clean["gopher_alphabetic_words"] < 0.01 * seen["clean"]


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


def test_filter_file_missing_languages_are_found_and_filtered(tmp_path, limits):
    german = "Der Hund lief schnell nach Hause, weil es im Wald schon dunkel und kalt wurde. " * 3
    english = "The dog ran home quickly, for it was already dark and cold in the wood. " * 3
    unknown = {"language": None, "language_score": None}
    documents = [
        document(german, **unknown),
        document(english, **unknown),
        document(german, language="en", language_score=0.9),  # what a source says is believed
    ]
    config = CONFIG.model_copy(update={"score_language": "missing", "max_words": 100})
    counts, part, rejected = run(tmp_path, documents, limits, config=config)
    assert [(row["row"], row["reason"], row["detail"]) for row in rejected.to_pylist()] == [
        (0, "language", "de")
    ]
    assert part["language"].to_pylist() == ["en", "en"]
    assert part["language_score"][0].as_py() > 0.9
    assert part["language_score"][1].as_py() == 0.9
    assert counts.num_languages_scored == 2
    assert counts.num_language_unknown == 2  # in the source


@pytest.mark.parametrize("action", ["keep", "report", "mask"])
def test_filter_file_personal_data_is_counted_or_masked(tmp_path, limits, action):
    text = "Tom wrote to anna.smith@mail-of-tom.org on the day before he left. " * 2
    raw = write_raw(tmp_path / "raw.parquet", [document(text), document("a b c d e f")])
    counts = filter_file(
        raw,
        file="f",
        config=CONFIG.model_copy(update={"max_words": 100}),
        personal_data=PersonalDataConfig(action=action),
        destination=tmp_path,
        limits=limits,
    )
    kept = pq.read_table(tmp_path / "part.parquet")["text"].to_pylist()
    assert (kept[0] == text) == (action != "mask")
    assert ("anna.smith" in kept[0]) == (action != "mask")
    assert counts.personal_data["email"] == (0 if action == "keep" else 2)
