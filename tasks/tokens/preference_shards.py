"""Pairs of answers to training shards with a loss mask: rows 2i chosen, rows 2i + 1 rejected.

Writes ``shard-00000.arrow``, … and ``rows.arrow`` of some tables of pairs. A row holds one
conversation and is padded, so that the rows of a pair lie side by side and nothing else is in them;
the mask is on the last answer and what ends it. ``model.batches`` keeps such rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.errors import CorpusError
from model.rows import ROWS_FILE, Segments, write_rows
from model.shards import Int32Array, ShardHeader
from model.tokenizer import Tokenizer
from tasks.tokens.chat_shards import LessonShards
from tasks.tokens.chats import ChatTable, file_names
from tasks.tokens.pairs import teach_pairs


@dataclass(frozen=True)
class PreferenceShardCounts:
    """What went into the shards; pairs in = ``num_kept`` + ``too_long``.

    Args:
        num_trimmed: of those kept, the ones whose prompt lost turns at its beginning.
        num_targets: ids that the loss mask marks, over both answers of all pairs.
        num_rows: two of each pair.
    """

    num_in: int
    num_kept: int
    too_long: int
    num_trimmed: int
    num_shards: int
    num_tokens: int
    num_targets: int
    num_rows: int
    num_padding: int


def write_preference_shards(
    tables: Sequence[ChatTable],
    *,
    tokenizer_directory: Path,
    split: str,
    seed: int,
    context_tokens: int,
    shard_tokens: int,
    destination: Path,
) -> PreferenceShardCounts:
    """Write the shards and rows of some tables of pairs.

    Args:
        split, seed: for the header.
        shard_tokens: tokens per shard, about: a conversation is never cut.
        destination: directory that takes the files; made if missing.

    Raises:
        CorpusError: no pair fits a row.
        ArtifactError: a table cannot be read.
        TokenizerError: the tokenizer cannot be loaded.
    """
    tokenizer = Tokenizer.load(tokenizer_directory)
    header = ShardHeader(
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        split=split,
        seed=seed,
        files=file_names(tables),
    )
    destination.mkdir(parents=True, exist_ok=True)
    shards = LessonShards(destination, header, shard_tokens)
    num_in = num_trimmed = 0
    for table in tables:
        for taught in teach_pairs(table, tokenizer, row_tokens=context_tokens + 1):
            num_in += 1
            if taught.lessons is not None:
                num_trimmed += taught.is_trimmed
                for lesson in taught.lessons:
                    shards.add(taught.file, taught.row, lesson)
    shards.close()
    _require_some(shards.num_docs, num_in=num_in, context_tokens=context_tokens, split=split)
    segments = one_a_row(shards.lengths)
    write_rows(destination / ROWS_FILE, segments, context_tokens=context_tokens)
    num_kept = shards.num_docs // 2
    return PreferenceShardCounts(
        num_in=num_in,
        num_kept=num_kept,
        too_long=num_in - num_kept,
        num_trimmed=num_trimmed,
        num_shards=len(shards.lengths),
        num_tokens=sum(int(item.sum()) for item in shards.lengths),
        num_targets=shards.num_targets,
        num_rows=segments.num_rows,
        num_padding=segments.num_padding(context_tokens),
    )


def one_a_row(shard_lengths: Sequence[Int32Array]) -> Segments:
    """Return rows that hold one document each, in their order.

    Args:
        shard_lengths: tokens of each document of each shard; none has more than a row.

    Example:
        >>> rows = one_a_row([np.array([5, 3], dtype=np.int32), np.array([7], dtype=np.int32)])
        >>> rows.row_offsets.tolist(), rows.shard.tolist(), rows.start.tolist()
        ([0, 1, 2, 3], [0, 0, 1], [0, 5, 0])
    """
    length = np.concatenate(shard_lengths).astype(np.int32)
    numbers = np.arange(len(shard_lengths), dtype=np.int32)
    starts = [np.cumsum(item, dtype=np.int64) - item for item in shard_lengths]
    return Segments(
        row_offsets=np.arange(len(length) + 1, dtype=np.int64),
        shard=np.repeat(numbers, [len(item) for item in shard_lengths]),
        start=np.concatenate(starts),
        length=length,
    )


def _require_some(num_docs: int, *, num_in: int, context_tokens: int, split: str) -> None:
    if not num_docs:
        raise CorpusError(
            f"no pair of answers is left for {split}",
            expected=f"at least one whose last message and answers fit {context_tokens + 1} tokens",
            found=f"{num_in} pairs, all of them longer" if num_in else "none",
            fix="raise model.context_tokens, or give shorter or more pairs in preference.sets",
        )
