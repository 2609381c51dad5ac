"""The held-out rows: who is eligible, which are chosen, and that the choice stays put."""

import hashlib
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceError
from tasks.config.corpus import ValidationConfig
from tasks.corpus.duckdb_connection import Limits
from tasks.corpus.filters.language import detect_language
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tasks.corpus.validation_split import select_validation


@pytest.fixture
def limits(tmp_path):
    return Limits(memory_bytes=500_000_000, threads=2, spill_directory=tmp_path / "spill")


def document(text, *, language="en", language_score=0.9, **more):
    row = {"text": text, "language": language, "language_score": language_score}
    return {**dict.fromkeys(FINEWEB_SCHEMA.names), **row, **more}


def write_raw(path: Path, documents: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(documents, schema=FINEWEB_SCHEMA), path, row_group_size=100)
    return path


def select(tmp_path, files: dict[str, list[dict]], limits, *, num_documents, seed=1):
    named = [
        (file, write_raw(tmp_path / f"{place}.parquet", documents))
        for place, (file, documents) in enumerate(files.items())
    ]
    counts = select_validation(
        named,
        config=ValidationConfig(num_documents=num_documents),
        language="en",
        seed=seed,
        destination=tmp_path,
        limits=limits,
    )
    return counts, pq.read_table(tmp_path / "validation.parquet")


def python_choice(files: dict[str, list[dict]], *, num_documents: int, seed: int) -> list[tuple]:
    """Return (file, row) of the chosen documents, computed without DuckDB."""
    first: dict[int, tuple[str, int]] = {}
    refused: dict[tuple[str, int], bool] = {}
    for file in sorted(files):
        for row, fields in enumerate(files[file]):
            text = fields["text"]
            if not text or not text.split():
                continue
            if fields["language"] not in (None, "en"):
                continue
            if fields["language"] and (fields["language_score"] or 1) < 0.65:
                continue
            if None in (fields["language"], fields["language_score"]):
                found = detect_language(text)
                refused[(file, row)] = not found or found.label != "en" or found.score < 0.65
            words = "".join(re.findall(r"\w+", text.lower())) or text
            first.setdefault(md5_number(words), (file, row))

    def place(key: int) -> int:
        text = f"{key:032x}"
        parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
        return md5_number(f"{seed}:{'-'.join(parts)}")

    taken = [first[key] for key in sorted(first, key=place) if not refused.get(first[key])]
    return sorted(taken[:num_documents])


def md5_number(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest(), "little")


def random_files(seed: int = 2) -> dict[str, list[dict]]:
    chance = random.Random(seed)
    forms = [str.lower, str.upper, lambda text: text + "."]

    def one() -> dict:
        text = chance.choice(forms)(f"text {chance.randrange(400)}")
        return document(
            chance.choice([text] * 8 + ["", " \n", None]),
            language=chance.choice(["en", "en", "en", "de", None]),
            language_score=chance.choice([0.9, 0.65, 0.64, None]),
        )

    return {name: [one() for _ in range(300)] for name in ("b", "a's", "c")}


def rows_of(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True))


def test_select_validation_random_documents_agree_with_plain_python(tmp_path, limits):
    files = random_files()
    counts, table = select(tmp_path, files, limits, num_documents=50)
    assert rows_of(table) == python_choice(files, num_documents=50, seed=1)
    assert counts.num_in == 900
    assert counts.num_kept == table.num_rows == 50
    assert counts.num_in > counts.num_eligible > counts.num_distinct >= 100


def test_select_validation_chosen_rows_keep_every_column(tmp_path, limits):
    files = {f"f{i}": [document(f"text {i}{j}", id=f"{i}/{j}") for j in range(9)] for i in range(3)}
    _, table = select(tmp_path, files, limits, num_documents=5)
    assert table.schema.names == [*FINEWEB_SCHEMA.names, "file", "row"]
    assert table.schema.types == [*FINEWEB_SCHEMA.types, pa.string(), pa.int64()]
    for row in table.to_pylist():
        assert row == {**files[row["file"]][row["row"]], "file": row["file"], "row": row["row"]}


def test_select_validation_only_the_language_or_unlabelled_is_eligible(tmp_path, limits):
    plain = [document(f"plain {i}") for i in range(3)]
    rest = [
        document("unknown", language=None, language_score=None),
        document("unknown score", language_score=None),
        document("unsure", language_score=0.649),
        document("deutsch", language="de"),
        document(None),
        document(""),
        document("\t\u00a0"),
        document("Plain, 1!"),
    ]
    counts, _ = select(tmp_path, {"f": plain + rest}, limits, num_documents=2)
    assert (counts.num_in, counts.num_eligible, counts.num_distinct) == (11, 6, 5)


def test_select_validation_unlabelled_texts_are_checked_by_the_language_model(tmp_path, limits):
    english, german = (
        "This is a plain sentence about a small house and its garden, number",
        "Dies ist ein einfacher Satz über ein kleines Haus und seinen Garten, Nummer",
    )
    texts = [f"{text} {i}" for i in range(20) for text in (english, german)]
    files = {"f": [document(text, language=None, language_score=None) for text in texts]}
    _, table = select(tmp_path, files, limits, num_documents=15)
    assert table.num_rows == 15
    assert all(text.startswith("This") for text in table["text"].to_pylist())
    with pytest.raises(CorpusError, match="too few documents in the language") as caught:
        select(
            tmp_path,
            {"f": [*files["f"][:2], *files["f"][1::2]]},
            limits,
            num_documents=2,
        )
    assert caught.value.found == "1 that are labelled so or identified as such"


def test_select_validation_copies_leave_one_the_first_by_file_and_row(tmp_path, limits):
    copies = {"b": [document("Same text")], "a": [document("Other"), document("same TEXT!")]}
    chosen = {
        rows_of(select(tmp_path, copies, limits, num_documents=1, seed=seed)[1])[0]
        for seed in range(6)
    }
    assert chosen == {("a", 0), ("a", 1)}


def test_select_validation_seed_changes_choice_and_repeats(tmp_path, limits):
    files = random_files()
    chosen = [
        rows_of(select(tmp_path, files, limits, num_documents=50, seed=seed)[1])
        for seed in (1, 2, 1)
    ]
    assert chosen[0] == chosen[2]
    assert chosen[0] != chosen[1]


def test_select_validation_more_documents_displace_only_by_lower_hash(tmp_path, limits):
    files = random_files()
    grown = {**files, "d": [document(f"new text {i}") for i in range(300)]}
    before = set(rows_of(select(tmp_path, files, limits, num_documents=50)[1]))
    after = set(rows_of(select(tmp_path, grown, limits, num_documents=50)[1]))
    new = {row for row in after if row[0] == "d"}
    assert after - new < before
    assert len(before - after) == len(new) > 0
    assert sorted(after) == python_choice(grown, num_documents=50, seed=1)


def test_select_validation_file_order_and_threads_change_no_byte(tmp_path, limits):
    files = random_files()
    select(tmp_path, files, limits, num_documents=50)
    first = (tmp_path / "validation.parquet").read_bytes()
    backwards = dict(reversed(files.items()))
    single = Limits(300_000_000, 1, tmp_path / "spill")
    select(tmp_path, backwards, single, num_documents=50)
    assert (tmp_path / "validation.parquet").read_bytes() == first


def test_select_validation_too_few_documents_raises_corpus_error_with_advice(tmp_path, limits):
    documents = [document(f"text {i}") for i in range(19)] + [document("Text 3")]
    with pytest.raises(CorpusError, match="too small") as caught:
        select(tmp_path, {"only.parquet": documents}, limits, num_documents=10)
    words = str(caught.value)
    assert "at least 20 different documents" in words
    assert "found: 19" in words
    assert "lower validation.num_documents to 9" in words
    assert "only.parquet" in words


def test_select_validation_cut_file_raises_source_error_naming_it(tmp_path, limits):
    raw = write_raw(tmp_path / "raw.parquet", [document("text")])
    raw.write_bytes(raw.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"raw\.parquet"):
        select_validation(
            [("f", raw)],
            config=ValidationConfig(num_documents=1),
            language="en",
            seed=1,
            destination=tmp_path,
            limits=limits,
        )
