"""Records of chat files, one by one: parquet with a column ``messages``, or jsonl with such a key.

``messages`` is a list of ``{"role", "content"}``; other columns and keys do not matter. A checked
conversation is one in which an optional system message, then user and assistant by turns, say
something each, and the assistant at least once. What else a record may be has a name: its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from model.chat import Message
from model.errors import SourceRecordError, SourceSchemaError
from tasks.corpus.data_sets import SetFile
from tasks.corpus.jsonl import MAX_LINE_BYTES, read_lines
from tasks.corpus.raw_file import open_parquet

Reason = Literal[
    "not_json", "no_messages", "missing_role", "wrong_role", "not_text", "empty_turn",
    "not_alternating", "no_assistant_turn",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
ROLES = ("system", "user", "assistant")
READ_ROWS = 1_024


@dataclass(frozen=True)
class ChatRecord:
    """One record of a file as it is.

    Args:
        row: its number among the file's records, from 0.
        where: row or line, for people.
        messages: whatever stands there; ``BrokenRecordError`` if nothing can be read.
    """

    row: int
    where: str
    messages: object


class BrokenRecordError(Exception):
    """A record is no conversation."""

    def __init__(self, reason: Reason, found: str) -> None:
        super().__init__(found)
        self.reason = reason
        self.found = found


def read_records(item: SetFile) -> Iterator[ChatRecord]:
    """Yield the records of a chat file in order.

    Raises:
        SourceSchemaError: a parquet file has no column ``messages`` of roles and contents.
        SourceError: the file is cut off, or not of its format.
    """
    if item.file.path.endswith(".parquet"):  # what was fetched has another name here
        return _parquet_records(item)
    return _jsonl_records(item.path)


def checked(messages: object) -> tuple[Message, ...]:
    """Return a record's messages as a conversation.

    Raises:
        BrokenRecordError: it is none.
    """
    if isinstance(messages, BrokenRecordError):
        raise messages
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BrokenRecordError("no_messages", f"messages = {_shown(messages)}")
    turns = tuple(_message(index, item) for index, item in enumerate(messages))
    spoken = turns[1:] if turns[0].role == "system" else turns
    for index, turn in enumerate(spoken):
        expected = ("user", "assistant")[index % 2]
        if turn.role != expected:
            number = index + len(turns) - len(spoken)
            raise BrokenRecordError(
                "not_alternating", f"message {number} is the {turn.role}'s, not the {expected}'s"
            )
    if len(spoken) < 2:
        raise BrokenRecordError("no_assistant_turn", f"{len(turns)} messages")
    return turns


def broken_record(broken: BrokenRecordError, *, where: str) -> SourceRecordError:
    """Return the error that names a record which is no conversation."""
    return SourceRecordError(
        f"a record of a chat file is no conversation ({broken.reason})",
        expected="messages of an optional system, then user and assistant by turns, each with a "
        "role and a content that is not empty",
        found=broken.found,
        where=where,
        fix="correct the record, or set chat.on_broken_record=skip to have such ones counted",
    )


def _message(index: int, item: object) -> Message:
    fields = item if isinstance(item, Mapping) else {}
    role, content = fields.get("role"), fields.get("content")
    if role is None:
        raise BrokenRecordError("missing_role", f"message {index} = {_shown(item)}")
    if role not in ROLES:
        raise BrokenRecordError("wrong_role", f"message {index} has the role {_shown(role)}")
    if content is None or (isinstance(content, str) and not content.strip()):
        raise BrokenRecordError("empty_turn", f"message {index} has the content {_shown(content)}")
    if not isinstance(content, str) or not _is_encodable(content):
        raise BrokenRecordError("not_text", f"message {index} has the content {_shown(content)}")
    return Message(role=role, content=content)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _parquet_records(item: SetFile) -> Iterator[ChatRecord]:
    with open_parquet(item.path, where=item.where, pre_buffer=False) as parquet:
        _require_messages(parquet.schema_arrow, where=item.where)
        row = 0
        for batch in parquet.iter_batches(READ_ROWS, columns=["messages"]):
            for messages in batch["messages"].to_pylist():
                yield ChatRecord(row, f"row {row}", messages)
                row += 1


def _require_messages(schema: pa.Schema, *, where: str) -> None:
    found = schema.field("messages").type if "messages" in schema.names else None
    if found is None or not is_list_of_turns(found):
        raise SourceSchemaError(
            "a chat file has no column of messages",
            expected="messages: list of struct with role and content",
            found=f"messages: {found}" if found else f"columns {', '.join(schema.names)}",
            where=where,
            fix="name files of conversations in chat.sets",
        )


def is_list_of_turns(kind: pa.DataType) -> bool:
    """Say whether a column's values are lists of roles and contents."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    names = {field.name for field in turn} if pa.types.is_struct(turn) else set()
    return {"role", "content"} <= names


def _jsonl_records(path: Path) -> Iterator[ChatRecord]:
    for row, (where, record) in enumerate(jsonl_objects(path)):
        messages = record if isinstance(record, BrokenRecordError) else record.get("messages")
        yield ChatRecord(row, where, messages)


def jsonl_objects(path: Path) -> Iterator[tuple[str, dict[str, Any] | BrokenRecordError]]:
    """Yield the place of each line of a jsonl file and its object, or what is there instead."""
    for number, line in read_lines(path):
        yield f"line {number}", _parsed(line)


def _parsed(line: bytes | None) -> dict[str, Any] | BrokenRecordError:
    if line is None:
        return BrokenRecordError("not_json", f"a line of more than {MAX_LINE_BYTES:,} bytes")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return BrokenRecordError("not_json", f"no JSON in UTF-8 ({error})")
    if not isinstance(record, dict):
        return BrokenRecordError("not_json", f"a JSON {type(record).__name__}, not an object")
    return record
