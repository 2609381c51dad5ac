"""Preference records: a prompt, a chosen and a rejected answer to it.

Parquet columns or jsonl keys ``chosen`` and ``rejected`` hold conversations, lists of ``{"role",
"content"}``, that end with the assistant's answer; the messages before it are the
prompt, the same in both. Where they hold the answer alone, as one message or as plain text, the
prompt is in ``prompt`` or else in ``messages``: messages, or the text of the user's only one.
Conversations are validated as in ``tasks.corpus.chat_data.conversations``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from model.core.errors import CorpusError, SourceSchemaError
from model.text.chat_template import Message
from tasks.corpus.chat_data.conversations import (
    MESSAGES,
    checked_messages,
    is_list_of_turns,
    opening_of,
)
from tasks.corpus.chat_data.records import (
    BrokenRecordError,
    Fields,
    RecordKind,
    Row,
    SetCounts,
    shown,
)

ANSWERS = ("chosen", "rejected")
PROMPTS = ("prompt", "messages")
PAIR_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("prompt", MESSAGES),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
    ]
)


@dataclass(frozen=True)
class PreferencePair:
    """A prompt, its better answer and its worse one."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str

    @property
    def opening(self) -> str:
        """The user's first message."""
        return opening_of(self.prompt)

    def columns(self) -> Row:
        """Return its columns of a table."""
        prompt = [turn.model_dump() for turn in self.prompt]
        return {"prompt": prompt, "chosen": self.chosen, "rejected": self.rejected}


def checked_pair(fields: Fields) -> PreferencePair:
    """Return the fields of a record as a pair.

    Raises:
        BrokenRecordError: they are no valid pair.
    """
    chosen, rejected = (_conversation(fields, side) for side in ANSWERS)
    if chosen[:-1] != rejected[:-1]:
        raise BrokenRecordError("different_prompts", _first_difference(chosen[:-1], rejected[:-1]))
    if chosen[-1].content.strip() == rejected[-1].content.strip():
        raise BrokenRecordError("equal_answers", f"both {shown(chosen[-1].content)}")
    return PreferencePair(chosen[:-1], chosen[-1].content, rejected[-1].content)


def _conversation(fields: Fields, side: str) -> tuple[Message, ...]:
    """Return the prompt and the answer of one side, validated."""
    answer = fields.get(side)
    if answer is None or answer == []:
        raise BrokenRecordError("missing_answer", f"{side} = {shown(answer)}")
    messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    if _is_answer_alone(messages):
        messages = [*_prompt(fields), *messages]
    try:
        turns = checked_messages(messages)
    except BrokenRecordError as broken:
        reason = "missing_answer" if broken.reason == "no_assistant_turn" else broken.reason
        raise BrokenRecordError(reason, f"{side}: {broken.found}") from broken
    if turns[-1].role != "assistant":
        raise BrokenRecordError(
            "missing_answer", f"{side} ends with the {turns[-1].role}'s message"
        )
    return turns


def _is_answer_alone(messages: object) -> bool:
    if not isinstance(messages, Sequence) or len(messages) != 1:
        return False
    (message,) = messages
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _prompt(fields: Fields) -> list[Any]:
    found = next((fields[name] for name in PROMPTS if fields.get(name)), None)
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list):
        raise BrokenRecordError("no_messages", f"prompt = {shown(found)}")
    return found


def _first_difference(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    for index, pair in enumerate(zip(chosen, rejected, strict=False)):
        if pair[0] != pair[1]:
            texts = " and ".join(shown(turn.content) for turn in pair)
            return f"message {index} is {texts}"
    return f"prompts of {len(chosen)} and {len(rejected)} messages"


def _wanted_columns(schema: pa.Schema, where: str) -> list[str]:
    for name in ANSWERS:
        found = schema.field(name).type if name in schema.names else None
        if found is None or not (_is_text(found) or is_list_of_turns(found)):
            raise SourceSchemaError(
                "a preference file has no column of answers",
                expected=f"{name}: list of struct with role and content, or string",
                found=f"{name}: {found}" if found else f"columns {', '.join(schema.names)}",
                where=where,
                fix="name files of chosen and rejected answers in preference.sets",
            )
    return [name for name in (*ANSWERS, *PROMPTS) if name in schema.names]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _require_enough(counts: SetCounts) -> None:
    if not counts.num_training or not counts.num_held_out:
        raise CorpusError(
            "a preference set leaves nothing to learn from or nothing to measure on",
            expected="at least one pair for training and one held out",
            found=f"{counts.num_training} and {counts.num_held_out} of {counts.num_in} records; "
            f"rejected: {counts.rejected_text}",
            fix="name other files in preference.sets, or change preference.held_out_frac",
        )


PAIRS = RecordKind(
    group="preference",
    noun="pair of answers",
    definition="chosen and rejected: conversations that differ in the assistant's last message and "
    "in nothing else",
    reasons=(
        "not_json", "missing_answer", "missing_role", "wrong_role", "not_text", "empty_turn",
        "no_messages", "not_alternating", "different_prompts", "equal_answers",
    ),
    schema=PAIR_SCHEMA,
    wanted_columns=_wanted_columns,
    checked=checked_pair,
    require_enough=_require_enough,
)  # fmt: skip
