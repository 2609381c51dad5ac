"""SFT examples: conversations to training shards, with the loss on every answer.

Reads tables of checked conversations (columns ``file``, ``row``, ``messages``). A conversation that
is longer than a row is truncated to whole turns. Rows are packed best-fit-decreasing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from model.core.errors import CorpusError
from model.text.chat_template import read_messages
from model.text.conversation import ChatEncoder, turn_text
from model.text.tokenizer import Tokenizer
from tasks.config.chat import RecordShardLayout
from tasks.tokens.best_fit import best_fit_rows
from tasks.tokens.record_shards import (
    EncodedRecord,
    RecordShardCounts,
    RecordShardWriter,
    RecordTable,
    table_batches,
)

COLUMNS: Final = ["file", "row", "messages"]


def write_sft_shards(
    tables: Sequence[RecordTable],
    *,
    layout: RecordShardLayout,
    tokenizer_directory: Path,
    destination: Path,
) -> RecordShardCounts:
    """Write the shards and rows of tables of conversations.

    Args:
        destination: directory that takes the files; made if missing.

    Raises:
        CorpusError: no conversation fits a row.
        ArtifactError: a table cannot be read.
        SourceRecordError: a table holds a record that is no conversation.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    writer = RecordShardWriter(destination, tables=tables, tokenizer=tokenizer, layout=layout)
    for table in tables:
        writer.add(encode_conversations(table, tokenizer, row_tokens=layout.row_tokens))
    lengths = writer.finish_shards()
    if not writer.num_kept:
        raise _none_fits(writer.num_in, layout)
    return writer.write_rows(best_fit_rows(lengths, capacity=layout.row_tokens))


def encode_conversations(
    table: RecordTable, tokenizer: Tokenizer, *, row_tokens: int
) -> Iterator[EncodedRecord]:
    """Yield the encoded conversations of a table in order, truncated to whole turns.

    A record has no example where not even the first exchange fits.

    Args:
        row_tokens: most ids of one conversation.

    Raises:
        ArtifactError: the table cannot be read.
        SourceRecordError: it holds a record that is no conversation.
    """
    encoder = ChatEncoder(tokenizer)
    for batch in table_batches(table.path, columns=COLUMNS):
        columns = [batch[name].to_pylist() for name in COLUMNS]
        conversations = [
            read_messages(records, where=f"{table.path}, {file}, row {row}")
            for file, row, records in zip(*columns, strict=True)
        ]
        texts = [turn_text(message) for messages in conversations for message in messages]
        turn_ids = iter(tokenizer.encode_batch(texts))
        for file, row, messages in zip(*columns[:2], conversations, strict=True):
            whole = encoder.encode(messages, [next(turn_ids) for _ in messages])
            example = whole.fitted(row_tokens)
            yield EncodedRecord(
                file=table.file_name(file),
                row=row,
                examples=(example,) if example else (),
                is_truncated=example is not None and len(example.ids) < len(whole.ids),
            )


def _none_fits(num_in: int, layout: RecordShardLayout) -> CorpusError:
    is_held_out = layout.split == "validation"
    return CorpusError(
        f"no conversation is left for {layout.split}",
        expected=f"at least one whose first exchange fits {layout.row_tokens} tokens",
        found=f"{num_in} conversations, all of them longer" if num_in else "none",
        fix="raise chat.held_out_frac, or give more conversations"
        if is_held_out and not num_in
        else "raise model.context_tokens, or give shorter conversations",
    )
