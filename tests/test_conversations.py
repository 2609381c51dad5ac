"""tasks.corpus.checked_sets and chat_records: what a chat file may hold, and where it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import CorpusError, SourceError, SourceRecordError, SourceSchemaError
from tasks.corpus.chat_records import CONVERSATIONS
from tasks.corpus.checked_sets import (
    HELD_OUT_NAME,
    REJECTED_NAME,
    TRAINING_NAME,
    Split,
    write_set,
)
from tasks.corpus.data_sets import SetFile
from tasks.corpus.records import SetCounts
from tasks.corpus.sources import SourceFile

ALL_TRAINING = Split(frac=1e-18, max_held_out=10, seed=1)

Turns = list[dict[str, Any]]


def turns(*contents: str, system: str = "") -> Turns:
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *said] if system else said


def write_jsonl(path: Path, conversations: Sequence[Any]) -> Path:
    lines = [
        item if isinstance(item, str) else json.dumps({"source": "test", "messages": item})
        for item in conversations
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_parquet(path: Path, conversations: Sequence[Turns | None]) -> Path:
    table = pa.table({"source": ["test"] * len(conversations), "messages": conversations})
    pq.write_table(table, path)
    return path


def sort_out(
    path: Path, *, split: Split = ALL_TRAINING, on_broken: Any = "fail"
) -> tuple[SetCounts, dict[str, list[dict[str, Any]]]]:
    destination = path.with_name(f"{path.name}.out")
    destination.mkdir()
    file = SourceFile(name="chats", path=path.name, digest="0")
    counts = write_set(
        [SetFile("set", file, path, str(path))],
        kind=CONVERSATIONS,
        split=split,
        on_broken=on_broken,
        destination=destination,
    )
    names = (TRAINING_NAME, HELD_OUT_NAME, REJECTED_NAME)
    return counts, {name: pq.read_table(destination / name).to_pylist() for name in names}


GOOD = [
    turns("Hi", "Hello."),
    turns("Who are you?", " A model.\n", "Really?", system="Be brief."),
    turns("Zwei\u2028Zeilen 😀", "Ja."),
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_good_records_come_out_as_they_are_with_file_and_row(tmp_path: Path, kind: str) -> None:
    write = write_jsonl if kind == "jsonl" else write_parquet
    counts, tables = sort_out(write(tmp_path / f"chats.{kind}", GOOD))
    assert counts.num_in == counts.num_training == len(GOOD)
    assert [row["messages"] for row in tables[TRAINING_NAME]] == GOOD
    assert [(row["file"], row["row"]) for row in tables[TRAINING_NAME]] == [
        (f"chats.{kind}", number) for number in range(len(GOOD))
    ]
    assert tables[HELD_OUT_NAME] == tables[REJECTED_NAME] == []


BROKEN = [
    ([{"content": "Hi"}, {"role": "assistant", "content": "Hello."}], "missing_role", "message 0"),
    ([{"role": None, "content": "Hi"}, *turns("x")], "missing_role", "message 0"),
    (turns("Hi", ""), "empty_turn", "message 1 has the content ''"),
    (turns("Hi", " \n"), "empty_turn", r"message 1 has the content ' \\n'"),
    ([{"role": "user"}, *turns("x")], "empty_turn", "message 0 has the content None"),
    ([{"role": "robot", "content": "Hi"}], "wrong_role", "message 0 has the role 'robot'"),
    ([{"role": "user", "content": 3}], "not_text", "message 0 has the content 3"),
    ([{"role": "user", "content": "\ud800"}], "not_text", "message 0"),
    (turns("Hi", "Hello.")[::-1], "not_alternating", "message 0 is the assistant's, not the user"),
    ([*turns("Hi", "Hello."), turns("Hi", "Ho")[1]], "not_alternating", "message 2 is the ass"),
    ([*turns("a", "b"), turns("x", system="s")[0]], "not_alternating", "message 2 is the system's"),
    (turns("Hi"), "no_assistant_turn", "1 messages"),
    (turns("Hi", system="Be brief."), "no_assistant_turn", "2 messages"),
    ([], "no_messages", r"messages = \[\]"),
    (None, "no_messages", "messages = None"),
    ("Hi", "no_messages", "messages = 'Hi'"),
]


@pytest.mark.parametrize(("messages", "reason", "found"), BROKEN)
def test_broken_record_fails_with_its_line_or_is_counted(
    tmp_path: Path, messages: Any, reason: str, found: str
) -> None:
    record = json.dumps({"messages": messages})
    path = write_jsonl(tmp_path / "chats.jsonl", [GOOD[0], "", record, GOOD[1]])
    with pytest.raises(SourceRecordError, match=rf"(?s)\({reason}\).*{found}") as caught:
        sort_out(path)
    assert str(caught.value.where) == f"{path}, line 3"
    assert "chat.on_broken_record=skip" in str(caught.value.fix)
    (tmp_path / "chats.jsonl.out").rename(tmp_path / "failed")
    counts, tables = sort_out(path, on_broken="skip")
    assert counts.rejected[reason] == sum(counts.rejected.values()) == 1
    assert counts.num_in == counts.num_training + counts.num_held_out + 1 == 3
    (rejected,) = tables[REJECTED_NAME]
    assert (rejected["file"], rejected["row"], rejected["reason"]) == ("chats.jsonl", 1, reason)
    assert rejected["detail"].startswith("line 3: ")
    assert [row["row"] for row in tables[TRAINING_NAME]] == [0, 2]


@pytest.mark.parametrize("line", ["{", "[1]", '"x"', "\udcff"])
def test_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(f"{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceRecordError, match=r"(?s)\(not_json\).*line 1"):
        sort_out(path)


def test_broken_row_of_parquet_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "chats.parquet", [GOOD[0], turns("Hi", "")])
    with pytest.raises(SourceRecordError, match=r"(?s)\(empty_turn\).*chats\.parquet, row 1"):
        sort_out(path)


def test_parquet_without_messages_says_which_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["Hi"], "id": ["1"]}), path)
    with pytest.raises(SourceSchemaError, match=r"(?s)messages: list of struct.*columns text, id"):
        sort_out(path)


def test_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "chats.parquet", GOOD * 50)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="cut off"):
        sort_out(path)


def test_set_of_broken_records_alone_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", [turns("Hi")] * 3)
    with pytest.raises(CorpusError, match=r"(?s)no conversation.*no_assistant_turn 3"):
        sort_out(path, on_broken="skip")


def test_opening_decides_the_side_whatever_follows(tmp_path: Path) -> None:
    openings = [f"Question {number}" for number in range(300)]
    conversations = [turns(text, answer) for text in openings for answer in ("Yes.", "No.")] + [
        turns(f"  {text.upper()} ", "Maybe.", system="s") for text in openings
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", conversations)
    counts, tables = sort_out(path, split=Split(frac=0.2, max_held_out=10_000, seed=1))
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
    _, again = sort_out(other, split=Split(frac=0.2, max_held_out=10_000, seed=2))
    assert again[HELD_OUT_NAME] != tables[HELD_OUT_NAME]


def openings_of(rows: list[dict[str, Any]]) -> set[str]:
    return {row["messages"][0]["content"] for row in rows}


def test_held_out_over_the_limit_are_on_neither_side_and_counted(tmp_path: Path) -> None:
    conversations = [turns(f"Question {number % 100}", str(number)) for number in range(300)]
    path = write_jsonl(tmp_path / "chats.jsonl", conversations)
    split = Split(frac=0.5, max_held_out=10, seed=1)
    counts, tables = sort_out(path, split=split)
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
            sort_out(write_jsonl(tmp_path / f"{name}.jsonl", chats), split=split)
            for name, chats in (("large", large), ("small", small))
        ),
        strict=True,
    )
    assert [item.num_held_out for item in counts] == [15, 15]  # both are at their limit
    trained, measured = (
        {text.lower() for item in tables for text in openings_of(item[name])}
        for name in (TRAINING_NAME, HELD_OUT_NAME)
    )
    assert len(measured) > 15  # the two measure with different openings
    assert not trained & measured


def test_real_conversations_are_all_read(tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "train.parquet"
    path.symlink_to(shared_data / "chat" / "train.parquet")
    counts, _ = sort_out(path, split=Split(frac=0.02, max_held_out=1_000, seed=1), on_broken="skip")
    assert counts.num_in == pq.ParquetFile(path).metadata.num_rows
    assert counts.num_training > 0.9 * counts.num_in
