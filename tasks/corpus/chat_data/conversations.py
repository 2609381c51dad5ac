"""Conversation records: parquet with a column ``messages``, or jsonl with such a key.

``messages`` is a list of ``{"role", "content"}``. A valid conversation has an optional system
message, then user and assistant in turn, at least one answer, and no empty message. Any other
record is rejected with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from model.core.errors import CorpusError, SourceSchemaError
from model.text.chat_template import Message
from tasks.corpus.chat_data.records import (
    BrokenRecordError,
    Fields,
    RecordKind,
    Row,
    SetCounts,
    shown,
)

ROLES = ("system", "user", "assistant")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
CONVERSATION_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("messages", MESSAGES)]
)


@dataclass(frozen=True)
class Conversation:
    """A valid conversation."""

    messages: tuple[Message, ...]

    @property
    def opening(self) -> str:
        """The user's first message."""
        return opening_of(self.messages)

    def columns(self) -> Row:
        """Return its column of a table."""
        return {"messages": [turn.model_dump() for turn in self.messages]}


def opening_of(messages: Sequence[Message]) -> str:
    """Return the user's first message of valid messages."""
    return next(turn.content for turn in messages if turn.role == "user")


def checked_messages(messages: object) -> tuple[Message, ...]:
    """Return the messages of a conversation, validated.

    Raises:
        BrokenRecordError: they are no valid conversation.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BrokenRecordError("no_messages", f"messages = {shown(messages)}")
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


def _message(index: int, item: object) -> Message:
    fields = item if isinstance(item, Mapping) else {}
    role, content = fields.get("role"), fields.get("content")
    if role is None:
        raise BrokenRecordError("missing_role", f"message {index} = {shown(item)}")
    if role not in ROLES:
        raise BrokenRecordError("wrong_role", f"message {index} has the role {shown(role)}")
    if content is None or (isinstance(content, str) and not content.strip()):
        raise BrokenRecordError("empty_turn", f"message {index} has the content {shown(content)}")
    if not isinstance(content, str) or not _is_encodable(content):
        raise BrokenRecordError("not_text", f"message {index} has the content {shown(content)}")
    return Message(role=role, content=content)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_list_of_turns(kind: pa.DataType) -> bool:
    """Return whether a column's values are lists of roles and contents."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    names = {field.name for field in turn} if pa.types.is_struct(turn) else set()
    return {"role", "content"} <= names


def _checked(fields: Fields) -> Conversation:
    return Conversation(checked_messages(fields.get("messages")))


def _wanted_columns(schema: pa.Schema, where: str) -> list[str]:
    found = schema.field("messages").type if "messages" in schema.names else None
    if found is None or not is_list_of_turns(found):
        raise SourceSchemaError(
            "a chat file has no column of messages",
            expected="messages: list of struct with role and content",
            found=f"messages: {found}" if found else f"columns {', '.join(schema.names)}",
            where=where,
            fix="name files of conversations in chat.sets",
        )
    return ["messages"]


def _require_enough(counts: SetCounts) -> None:
    if not counts.num_training:
        raise CorpusError(
            "no conversation is left for training",
            expected="at least one of every set",
            found=f"{counts.num_in} records; rejected: {counts.rejected_text}",
            fix="name other files in chat.sets, or lower chat.held_out_frac",
        )


CONVERSATIONS = RecordKind(
    group="chat",
    noun="conversation",
    definition="messages of an optional system, then user and assistant by turns, each with a role "
    "and a content that is not empty",
    reasons=(
        "not_json", "no_messages", "missing_role", "wrong_role", "not_text", "empty_turn",
        "not_alternating", "no_assistant_turn",
    ),
    schema=CONVERSATION_SCHEMA,
    wanted_columns=_wanted_columns,
    checked=_checked,
    require_enough=_require_enough,
)  # fmt: skip
