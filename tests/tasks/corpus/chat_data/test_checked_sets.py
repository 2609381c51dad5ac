"""tasks.corpus.chat_data.checked_sets: split into training and held out, rejected records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.core.errors import SourceError, SourceRecordError
from tasks.corpus.chat_data.checked_sets import HELD_OUT_NAME, REJECTED_NAME, TRAINING_NAME, Split
from tests.support.small_chats import GOOD_CHATS, check_file, turns, write_jsonl, write_parquet


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_good_records_come_out_as_they_are_with_file_and_row(tmp_path: Path, kind: str) -> None:
    write = write_jsonl if kind == "jsonl" else write_parquet
    counts, tables = check_file(write(tmp_path / f"chats.{kind}", GOOD_CHATS))
    assert counts.num_in == counts.num_training == len(GOOD_CHATS)
    assert [row["messages"] for row in tables[TRAINING_NAME]] == GOOD_CHATS
    assert [(row["file"], row["row"]) for row in tables[TRAINING_NAME]] == [
        (f"chats.{kind}", number) for number in range(len(GOOD_CHATS))
    ]
    assert tables[HELD_OUT_NAME] == tables[REJECTED_NAME] == []


@pytest.mark.parametrize("line", ["{", "[1]", '"x"', "\udcff"])
def test_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(f"{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceRecordError, match=r"(?s)\(not_json\).*line 1") as caught:
        check_file(path)
    assert ("character 3" in str(caught.value)) == (line == "{")


def test_broken_row_of_parquet_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "chats.parquet", [GOOD_CHATS[0], turns("Hi", "")])
    with pytest.raises(SourceRecordError, match=r"(?s)\(empty_turn\).*chats\.parquet, row 1"):
        check_file(path)


def test_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "chats.parquet", GOOD_CHATS * 50)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="cut off"):
        check_file(path)


def test_opening_decides_the_side_whatever_follows(tmp_path: Path) -> None:
    openings = [f"Question {number}" for number in range(300)]
    conversations = [turns(text, answer) for text in openings for answer in ("Yes.", "No.")] + [
        turns(f"  {text.upper()} ", "Maybe.", system="s") for text in openings
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", conversations)
    counts, tables = check_file(path, split=Split(frac=0.2, max_held_out=10_000, seed=1))
    sides = [
        {
            " ".join(turn["content"].lower().split())
            for row in tables[name]
            for turn in row["messages"]
            if turn["content"].strip().lower().startswith("question")
        }
        for name in (TRAINING_NAME, HELD_OUT_NAME)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 300
    assert 30 < len(sides[1]) < 90
    assert counts.num_held_out == 3 * len(sides[1])
    other = path.rename(tmp_path / "again.jsonl")
    _, again = check_file(other, split=Split(frac=0.2, max_held_out=10_000, seed=2))
    assert again[HELD_OUT_NAME] != tables[HELD_OUT_NAME]


def openings_of(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][0]["content"] for row in rows}


def test_held_out_over_the_limit_are_on_neither_side_and_counted(tmp_path: Path) -> None:
    conversations = [turns(f"Question {number % 100}", str(number)) for number in range(300)]
    path = write_jsonl(tmp_path / "chats.jsonl", conversations)
    split = Split(frac=0.5, max_held_out=10, seed=1)
    counts, tables = check_file(path, split=split)
    held_out = [
        text for text in openings_of([{"messages": item} for item in conversations])
        if split.place(text) < 0.5
    ]  # fmt: skip
    assert counts.num_held_out == len(tables[HELD_OUT_NAME]) == 10
    assert counts.num_training == len(tables[TRAINING_NAME]) == 300 - 3 * len(held_out)
    assert counts.over_limit == 3 * len(held_out) - 10 > 0
    assert openings_of(tables[HELD_OUT_NAME]) < set(held_out)
    assert not openings_of(tables[TRAINING_NAME]) & set(held_out)


def test_opening_held_out_of_a_small_set_is_trained_on_in_no_large_one(tmp_path: Path) -> None:
    large = [turns(f"Question {number}", "Yes.") for number in range(300)]
    small = [turns(f"question {number}", "No.") for number in range(40)]
    split = Split(frac=0.5, max_held_out=15, seed=1)
    counts, tables = zip(
        *(
            check_file(write_jsonl(tmp_path / f"{name}.jsonl", chats), split=split)
            for name, chats in (("large", large), ("small", small))
        ),
        strict=True,
    )
    assert [item.num_held_out for item in counts] == [15, 15]  # both reach their limit
    trained, measured = (
        {text.lower() for item in tables for text in openings_of(item[name])}
        for name in (TRAINING_NAME, HELD_OUT_NAME)
    )
    assert len(measured) > 15  # the two measure with different openings
    assert not trained & measured
