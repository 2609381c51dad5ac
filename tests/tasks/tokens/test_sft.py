"""tasks.tokens.sft: shards of conversations, their loss masks and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.core.errors import ArtifactError, CorpusError, SourceRecordError
from model.data.shards import ShardSet, open_shard
from model.text.chat_template import Message
from model.text.tokenizer import IM_END, Tokenizer
from tasks.config.chat import RecordShardLayout
from tasks.corpus.chat_data.conversations import CONVERSATION_SCHEMA
from tasks.tokens.best_fit import best_fit_rows
from tasks.tokens.packing import whole_document_rows
from tasks.tokens.record_shards import RecordShardCounts, RecordTable
from tasks.tokens.sft import write_sft_shards
from tests.support.small_chats import example_of, spoken
from tests.support.small_tokenizer import train_small_tokenizer

CONTEXT_TOKENS = 64


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(directory) -> Tokenizer:
    return Tokenizer.load(directory)


def write_table(path: Path, conversations: Sequence[Sequence[Message]]) -> Path:
    rows = [
        {"file": f"f{number % 2}", "row": number, "messages": [m.model_dump() for m in messages]}
        for number, messages in enumerate(conversations)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=CONVERSATION_SCHEMA), path)
    return path


def write_set(
    root: Path, directory: Path, *sets: Sequence[Sequence[Message]], shard_tokens: int = 10**6
) -> RecordShardCounts:
    tables = [
        RecordTable(f"set{number}", write_table(root / f"{number}.parquet", conversations))
        for number, conversations in enumerate(sets)
    ]
    return write_tables(tables, directory, root / "shards", shard_tokens=shard_tokens)


def write_tables(
    tables: Sequence[RecordTable], directory: Path, destination: Path, *, shard_tokens: int
) -> RecordShardCounts:
    return write_sft_shards(
        tables,
        layout=RecordShardLayout(
            split="training", context_tokens=CONTEXT_TOKENS, shard_tokens=shard_tokens, seed=1
        ),
        tokenizer_directory=directory,
        destination=destination,
    )


SHORT = [spoken(f"Hi{number}", "Yes" + "." * (number % 9 * 3)) for number in range(40)]
LONG = spoken(*["The cat sat on the mat."] * 20)
TOO_LONG = spoken("cats " * 100, "Yes.")


@pytest.mark.parametrize("shard_tokens", [100, 10**6])
def test_rows_hold_every_conversation_once_and_whole(
    tmp_path, directory, tokenizer, shard_tokens
) -> None:
    counts = write_set(tmp_path, directory, SHORT[:25], SHORT[25:], shard_tokens=shard_tokens)
    shards = ShardSet(tmp_path / "shards", context_tokens=CONTEXT_TOKENS, loss_on="mask")
    block = shards.rows(range(shards.num_rows))
    found = []
    for ids, begins in zip(block.ids, block.begins, strict=True):
        borders = [*np.flatnonzero(begins).tolist(), len(ids)]
        pieces = [ids[begin:end].tolist() for begin, end in pairwise(borders)]
        found += [piece for piece in pieces if piece[0] != tokenizer.pad_id]
    expected = [example_of(messages, tokenizer).ids.tolist() for messages in SHORT]
    assert sorted(found) == sorted(expected)
    assert counts.num_in == counts.num_kept == len(SHORT)
    assert (counts.num_shards > 5) == (shard_tokens == 100)
    assert counts.num_rows == shards.num_rows < len(SHORT)


def test_targets_of_rows_are_what_the_assistant_says(tmp_path, directory, tokenizer) -> None:
    counts = write_set(tmp_path, directory, SHORT)
    shards = ShardSet(tmp_path / "shards", context_tokens=CONTEXT_TOKENS, loss_on="mask")
    block = shards.rows(range(shards.num_rows))
    assert block.mask.any(axis=1).all(), "a row without targets"
    assert int(block.mask.sum()) == counts.num_targets
    said = "".join(tokenizer.decode(block.ids[block.mask].tolist()).split(IM_END))
    expected = "".join(messages[1].content for messages in SHORT)
    assert sorted(said) == sorted(expected)
    everything = ShardSet(tmp_path / "shards", context_tokens=CONTEXT_TOKENS)
    assert everything.num_targets + counts.num_padding == counts.num_rows * CONTEXT_TOKENS


def test_long_conversations_are_cut_to_whole_turns_or_left_out_and_counted(
    tmp_path, directory, tokenizer
) -> None:
    counts = write_set(tmp_path, directory, [SHORT[0], LONG, TOO_LONG])
    assert (counts.num_in, counts.num_kept, counts.too_long, counts.num_truncated) == (3, 2, 1, 1)
    shard = open_shard(tmp_path / "shards" / "shard-00000.arrow")
    second = shard.tokens[shard.offsets[1] :].tolist()
    assert len(second) <= CONTEXT_TOKENS + 1
    num_turns = second.count(tokenizer.special_id(IM_END))
    assert num_turns % 2 == 0
    assert second == example_of(LONG[:num_turns], tokenizer).ids.tolist()
    assert len(example_of(LONG[: num_turns + 2], tokenizer).ids) > CONTEXT_TOKENS + 1
    names = [shard.header.files[doc >> 32] for doc in shard.docs.tolist()]
    assert names == ["set0/f0", "set0/f1"]


def test_conversation_that_ends_with_a_question_loses_it(tmp_path, directory, tokenizer) -> None:
    asked = spoken("Hi", "Hello.", "And?")
    counts = write_set(tmp_path, directory, [asked])
    shard = open_shard(tmp_path / "shards" / "shard-00000.arrow")
    assert shard.tokens.tolist() == example_of(asked[:2], tokenizer).ids.tolist()
    assert (counts.num_kept, counts.num_truncated) == (1, 1)


@pytest.mark.parametrize(
    ("conversations", "words"),
    [([TOO_LONG], r"(?s)at least one whose first exchange fits 65 tokens.*1 conv"), ([], "none")],
)
def test_nothing_that_fits_is_an_error(tmp_path, directory, conversations, words) -> None:
    with pytest.raises(CorpusError, match=words):
        write_set(tmp_path, directory, conversations)


def test_unreadable_table_is_named(tmp_path, directory) -> None:
    path = tmp_path / "chats.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(ArtifactError, match=r"(?s)records cannot be read.*chats\.parquet"):
        write_tables([RecordTable("set", path)], directory, tmp_path, shard_tokens=1_000)


def test_table_with_an_unchecked_record_is_refused(tmp_path, directory) -> None:
    rows = [{"file": "f", "row": 7, "messages": [{"role": "user", "content": ""}]}]
    path = tmp_path / "0.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=CONVERSATION_SCHEMA), path)
    with pytest.raises(SourceRecordError, match=r"f, row 7, message 0"):
        write_tables([RecordTable("set", path)], directory, tmp_path, shard_tokens=1_000)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=30), min_size=1, max_size=4))
def test_whole_document_rows_give_each_document_a_place_in_one_row(sizes) -> None:
    lengths = [np.array(item, dtype=np.int32) for item in sizes]
    rows = whole_document_rows(lengths, best_fit_rows(np.concatenate(lengths), capacity=20))
    expected = {
        (shard, int(start), int(size))
        for shard, item in enumerate(lengths)
        for start, size in zip(np.cumsum(item) - item, item, strict=True)
    }
    found = list(zip(rows.shard.tolist(), rows.start.tolist(), rows.length.tolist(), strict=True))
    assert set(found) == expected
    assert len(found) == len(expected)
    totals = np.diff(np.append(0, np.cumsum(rows.length))[rows.row_offsets])
    assert totals.max() <= 20
    assert totals.min() > 0
