"""Conversations as ids: through the one template, cut to whole turns where they are too long.

Reads tables of checked conversations (columns ``file``, ``row``, ``messages``) a batch at a time.
``model.text.conversation`` lays down which ids a conversation has and which of them are to be
learned; here is only speed, and what becomes of conversations that outgrow a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model.text.chat_template import Message, read_messages
from model.text.conversation import ChatEncoder, turn_text
from model.text.tokenizer import Tokenizer
from tasks.tokens.record_tables import RecordTable, Taught, table_batches

COLUMNS = ["file", "row", "messages"]


def teach(table: RecordTable, tokenizer: Tokenizer, *, row_tokens: int) -> Iterator[Taught]:
    """Yield the conversations of a table in order, as ids; the last turns of a long one go.

    Too little fits where not even the first exchange does.

    Args:
        row_tokens: most ids of one.

    Raises:
        ArtifactError: the table cannot be read.
        SourceRecordError: it holds what is no conversation.
    """
    encoder = ChatEncoder(tokenizer)
    for batch in table_batches(table.path, columns=COLUMNS):
        columns = [batch[name].to_pylist() for name in COLUMNS]
        conversations = [
            read_messages(records, where=f"{table.path}, {file}, row {row}")
            for file, row, records in zip(*columns, strict=True)
        ]
        words = iter(tokenizer.encode_batch(_turn_texts(conversations)))
        for file, row, messages in zip(*columns[:2], conversations, strict=True):
            whole = encoder.encode(messages, [next(words) for _ in messages])
            lesson = whole.fitted(row_tokens)
            lessons = (lesson,) if lesson else ()
            is_cut = lesson is not None and len(lesson.ids) < len(whole.ids)
            yield Taught(table.file_name(file), row, lessons, is_cut)


def _turn_texts(conversations: Sequence[Sequence[Message]]) -> list[str]:
    return [turn_text(message) for messages in conversations for message in messages]
