"""DPO pairs: pairs of answers to training shards, with the loss on the last answer alone.

Reads tables of checked pairs (columns ``file``, ``row``, ``prompt``, ``chosen``, ``rejected``). A
pair becomes two conversations that differ in their last answer: row 2i is chosen, row 2i + 1 is
rejected, and a row holds nothing else. ``model.train.loader`` keeps such rows together. A prompt
too long for the longer answer loses its oldest turns in both conversations; a system message stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from model.core.errors import CorpusError
from model.text.chat_template import Message, read_messages
from model.text.conversation import ChatEncoder, SFTExample, num_oldest, turn_text
from model.text.tokenizer import Tokenizer
from tasks.config.chat import RecordShardLayout
from tasks.tokens.record_shards import (
    EncodedRecord,
    RecordShardCounts,
    RecordShardWriter,
    RecordTable,
    table_batches,
)

COLUMNS: Final = ["file", "row", "prompt", "chosen", "rejected"]

Turn = tuple[Message, Sequence[int]]  # a message and the ids of its text


def write_dpo_shards(
    tables: Sequence[RecordTable],
    *,
    layout: RecordShardLayout,
    tokenizer_directory: Path,
    destination: Path,
) -> RecordShardCounts:
    """Write the shards and rows of tables of pairs.

    Args:
        destination: directory that takes the files; made if missing.

    Raises:
        CorpusError: no pair fits two rows.
        ArtifactError: a table cannot be read.
        SourceRecordError: a table holds a record that is no pair.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    writer = RecordShardWriter(destination, tables=tables, tokenizer=tokenizer, layout=layout)
    for table in tables:
        writer.add(encode_pairs(table, tokenizer, row_tokens=layout.row_tokens))
    lengths = writer.finish_shards()
    if not writer.num_kept:
        raise _none_fits(writer.num_in, layout)
    return writer.write_rows(np.arange(len(lengths), dtype=np.int32))


def encode_pairs(
    table: RecordTable, tokenizer: Tokenizer, *, row_tokens: int
) -> Iterator[EncodedRecord]:
    """Yield the encoded pairs of a table in order: the chosen conversation, then the rejected one.

    A record has no examples where not even the last message before the answers fits.

    Args:
        row_tokens: most ids of one conversation.

    Raises:
        ArtifactError: the table cannot be read.
        SourceRecordError: it holds a record that is no pair.
    """
    encoder = ChatEncoder(tokenizer)
    for batch in table_batches(table.path, columns=COLUMNS):
        columns = [batch[name].to_pylist() for name in COLUMNS]
        pairs = [
            (
                read_messages(prompt, where=f"{table.path}, {file}, row {row}"),
                [Message(role="assistant", content=answer) for answer in answers],
            )
            for file, row, prompt, *answers in zip(*columns, strict=True)
        ]
        texts = [turn_text(turn) for prompt, answers in pairs for turn in (*prompt, *answers)]
        turn_ids = iter(tokenizer.encode_batch(texts))
        for file, row, (prompt, answers) in zip(*columns[:2], pairs, strict=True):
            prompt_turns = [(message, next(turn_ids)) for message in prompt]
            answer_turns = [(message, next(turn_ids)) for message in answers]
            num_kept, examples = _encode_pair(
                encoder, prompt_turns, answer_turns, row_tokens=row_tokens
            )
            yield EncodedRecord(
                file=table.file_name(file),
                row=row,
                examples=examples,
                is_truncated=bool(examples) and num_kept < len(prompt),
            )


def _encode_pair(
    encoder: ChatEncoder, prompt: Sequence[Turn], answers: Sequence[Turn], *, row_tokens: int
) -> tuple[int, tuple[SFTExample, ...]]:
    """Return how many turns of the prompt are kept, and the two examples if they then fit."""
    head = [turn for turn in prompt[:1] if turn[0].role == "system"]
    turns = list(prompt[len(head) :])
    while True:
        chosen, rejected = (
            encoder.encode(*zip(*head, *turns, answer, strict=True)).of_last_answer()
            for answer in answers
        )
        if max(len(chosen.ids), len(rejected.ids)) <= row_tokens:
            return len(head) + len(turns), (chosen, rejected)
        num_old = num_oldest([message for message, _ in turns])
        if num_old == 0:
            return len(head) + len(turns), ()
        turns = turns[num_old:]


def _none_fits(num_in: int, layout: RecordShardLayout) -> CorpusError:
    return CorpusError(
        f"no pair of answers is left for {layout.split}",
        expected=f"at least one whose last message and answers fit {layout.row_tokens} tokens",
        found=f"{num_in} pairs, all of them longer" if num_in else "none",
        fix="raise model.context_tokens, or give shorter or more pairs in preference.sets",
    )
