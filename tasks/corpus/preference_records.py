"""Records of preference files, one by one: a prompt, a chosen and a rejected answer to it.

Parquet columns or jsonl keys ``chosen`` and ``rejected`` hold conversations, lists of ``{"role",
"content"}``, that end with the assistant's answer; all before it is the prompt, the same in both.
Where they hold the answer alone, as one message or as plain text, the prompt is in ``prompt`` or
else in ``messages``: messages, or the text of the user's only one. Other columns and keys do not
matter. A conversation is checked as ``tasks.corpus.chat_records`` checks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from model.chat import Message
from model.errors import SourceRecordError, SourceSchemaError
from tasks.corpus.chat_records import (
    READ_ROWS,
    BrokenRecordError,
    checked,
    is_list_of_turns,
    jsonl_objects,
)
from tasks.corpus.data_sets import SetFile
from tasks.corpus.raw_file import open_parquet

Reason = Literal[
    "not_json", "missing_answer", "missing_role", "wrong_role", "not_text", "empty_turn",
    "no_messages", "not_alternating", "different_prompts", "equal_answers",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
ANSWERS = ("chosen", "rejected")
PROMPTS = ("prompt", "messages")


@dataclass(frozen=True)
class PairRecord:
    """One record of a file as it is.

    Args:
        row: its number among the file's records, from 0.
        where: row or line, for people.
        fields: whatever stands there; ``BrokenRecordError`` if nothing can be read.
    """

    row: int
    where: str
    fields: Mapping[str, Any] | BrokenRecordError


@dataclass(frozen=True)
class Pair:
    """What was said so far, the better answer and the worse one."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


class BrokenPairError(Exception):
    """A record is no pair of answers to one prompt."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason  # one of REASONS
        self.found = found


def read_pairs(item: SetFile) -> Iterator[PairRecord]:
    """Yield the records of a preference file in order.

    Raises:
        SourceSchemaError: a parquet file lacks a column of answers, or one is of another type.
        SourceError: the file is cut off, or not of its format.
    """
    if item.file.path.endswith(".parquet"):  # what was fetched has another name here
        yield from _parquet_records(item)
    else:
        for row, (where, fields) in enumerate(jsonl_objects(item.path)):
            yield PairRecord(row, where, fields)


def checked_pair(fields: Mapping[str, Any] | BrokenRecordError) -> Pair:
    """Return a record's fields as a pair.

    Raises:
        BrokenPairError: it is none.
    """
    if isinstance(fields, BrokenRecordError):
        raise BrokenPairError("not_json", fields.found)
    chosen, rejected = (_conversation(fields, side) for side in ANSWERS)
    if chosen[:-1] != rejected[:-1]:
        raise BrokenPairError("different_prompts", _first_difference(chosen[:-1], rejected[:-1]))
    if chosen[-1].content.strip() == rejected[-1].content.strip():
        raise BrokenPairError("equal_answers", f"both {_shown(chosen[-1].content)}")
    return Pair(chosen[:-1], chosen[-1].content, rejected[-1].content)


def broken_pair(broken: BrokenPairError, *, where: str) -> SourceRecordError:
    """Return the error that names a record which is no pair."""
    return SourceRecordError(
        f"a record of a preference file is no pair of answers ({broken.reason})",
        expected="chosen and rejected: conversations that differ in the assistant's last message "
        "and in nothing else",
        found=broken.found,
        where=where,
        fix="correct the record, or set preference.on_broken_record=skip to have such ones counted",
    )


def _conversation(fields: Mapping[str, Any], side: str) -> tuple[Message, ...]:
    """Return the prompt and the answer of one side."""
    answer = fields.get(side)
    if answer is None or answer == []:
        raise BrokenPairError("missing_answer", f"{side} = {_shown(answer)}")
    messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    if _is_answer_alone(messages):
        messages = [*_prompt(fields), *messages]
    try:
        turns = checked(messages)
    except BrokenRecordError as broken:
        reason = "missing_answer" if broken.reason == "no_assistant_turn" else broken.reason
        raise BrokenPairError(reason, f"{side}: {broken.found}") from broken
    if turns[-1].role != "assistant":
        raise BrokenPairError("missing_answer", f"{side} ends with the {turns[-1].role}'s message")
    return turns


def _is_answer_alone(messages: object) -> bool:
    if not isinstance(messages, Sequence) or len(messages) != 1:
        return False
    (message,) = messages
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _prompt(fields: Mapping[str, Any]) -> list[Any]:
    found = next((fields[name] for name in PROMPTS if fields.get(name)), None)
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list):
        raise BrokenPairError("no_messages", f"prompt = {_shown(found)}")
    return found


def _first_difference(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    for index, pair in enumerate(zip(chosen, rejected, strict=False)):
        if pair[0] != pair[1]:
            texts = " and ".join(_shown(turn.content) for turn in pair)
            return f"message {index} is {texts}"
    return f"prompts of {len(chosen)} and {len(rejected)} messages"


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _parquet_records(item: SetFile) -> Iterator[PairRecord]:
    with open_parquet(item.path, where=item.where, pre_buffer=False) as parquet:
        schema = parquet.schema_arrow
        _require_answers(schema, where=item.where)
        columns = [name for name in (*ANSWERS, *PROMPTS) if name in schema.names]
        row = 0
        for batch in parquet.iter_batches(READ_ROWS, columns=columns):
            for fields in batch.to_pylist():
                yield PairRecord(row, f"row {row}", fields)
                row += 1


def _require_answers(schema: pa.Schema, *, where: str) -> None:
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


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
