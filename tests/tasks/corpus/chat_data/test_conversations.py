"""tasks.corpus.chat_data.conversations: valid records, and reasons of rejected ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceRecordError, SourceSchemaError
from tasks.corpus.chat_data.checked_sets import REJECTED_NAME, TRAINING_NAME, Split
from tests.support.small_chats import GOOD_CHATS, check_file, turns, write_jsonl

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
    path = write_jsonl(tmp_path / "chats.jsonl", [GOOD_CHATS[0], "", record, GOOD_CHATS[1]])
    with pytest.raises(SourceRecordError, match=rf"(?s)\({reason}\).*{found}") as caught:
        check_file(path)
    assert str(caught.value.where) == f"{path}, line 3"
    assert "chat.on_broken_record=skip" in str(caught.value.fix)
    (tmp_path / "chats.jsonl.out").rename(tmp_path / "failed")
    counts, tables = check_file(path, on_broken="skip")
    assert counts.rejected[reason] == sum(counts.rejected.values()) == 1
    assert counts.num_in == counts.num_training + counts.num_held_out + 1 == 3
    (rejected,) = tables[REJECTED_NAME]
    assert (rejected["file"], rejected["row"], rejected["reason"]) == ("chats.jsonl", 1, reason)
    assert rejected["detail"].startswith("line 3: ")
    assert [row["row"] for row in tables[TRAINING_NAME]] == [0, 2]


def test_parquet_without_messages_says_which_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["Hi"], "id": ["1"]}), path)
    with pytest.raises(SourceSchemaError, match=r"(?s)messages: list of struct.*columns text, id"):
        check_file(path)


def test_set_of_broken_records_alone_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", [turns("Hi")] * 3)
    with pytest.raises(CorpusError, match=r"(?s)no conversation.*no_assistant_turn 3"):
        check_file(path, on_broken="skip")


def test_real_conversations_are_all_read(tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "train.parquet"
    path.symlink_to(shared_data / "chat" / "train.parquet")
    counts, _ = check_file(
        path, split=Split(frac=0.02, max_held_out=1_000, seed=1), on_broken="skip"
    )
    assert counts.num_in == pq.ParquetFile(path).metadata.num_rows
    assert counts.num_training > 0.9 * counts.num_in
