"""tasks.tokens.dpo: rows of pairs, their loss masks, and truncation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError
from model.data.shards import PAD_ID, ShardSet
from model.text.chat_template import render
from model.text.tokenizer import IM_END, Tokenizer
from tasks.config.chat import RecordShardLayout
from tasks.corpus.chat_data.preferences import PAIR_SCHEMA
from tasks.tokens.dpo import write_dpo_shards
from tasks.tokens.record_shards import RecordTable
from tests.support.small_chats import spoken, turns
from tests.support.small_tokenizer import train_small_tokenizer

CONTEXT_TOKENS = 48


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


def write_shards(tmp_path: Path, directory: Path, pairs: list[tuple[list[str], str, str]]):
    """Write pairs whose prompts are turns, the user's first, and return counts and rows."""
    rows = [
        {
            "file": "f",
            "row": row,
            "prompt": turns(*prompt),
            "chosen": chosen,
            "rejected": rejected,
        }
        for row, (prompt, chosen, rejected) in enumerate(pairs)
    ]
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), table)
    counts = write_dpo_shards(
        [RecordTable("pairs", table)],
        layout=RecordShardLayout(
            split="training", context_tokens=CONTEXT_TOKENS, shard_tokens=60, seed=1
        ),
        tokenizer_directory=directory,
        destination=tmp_path / "shards",
    )
    return counts, ShardSet(tmp_path / "shards", context_tokens=CONTEXT_TOKENS, loss_on="mask")


def test_rows_of_a_pair_hold_the_two_conversations_with_loss_on_the_last_answer(
    tmp_path: Path, directory: Path, tokenizer: Tokenizer
):
    pairs = [(["cat?", "dog", "mat?"], "cats", "dogs they"), (["The cat?"], "sat", "ran on")]
    counts, shards = write_shards(tmp_path, directory, pairs)
    assert (counts.num_in, counts.num_kept, counts.too_long, counts.num_rows) == (2, 2, 0, 4)
    assert counts.num_shards > 1  # a row finds its shard
    block = shards.rows(range(4))
    for row, mask, (prompt, *answers), side in zip(
        block.ids,
        block.mask,
        np.repeat(np.array(pairs, dtype=object), 2, axis=0),
        [0, 1] * 2,
        strict=True,
    ):
        messages = spoken(*prompt, answers[side])
        num_ids = int((row != PAD_ID).sum())
        text = tokenizer.decode_bytes(row[:num_ids].tolist()).decode()
        assert text == render(messages, add_generation_prompt=False)
        targets = row[mask].tolist()
        assert targets[-1] == tokenizer.special_id(IM_END)
        assert tokenizer.decode(targets[:-1]) == answers[side]
    assert counts.num_targets == int(block.mask.sum())


def test_long_prompts_lose_their_oldest_turns_in_both_rows_or_go(
    tmp_path: Path, directory: Path, tokenizer: Tokenizer
):
    long = "the cat sat on the mat, and the dog didn't mind they're friends " * 2
    pairs = [
        ([long, "yes", "The cat?"], "sat", "ran"),  # loses its first exchange
        (["The cat?"], "sat", long * 2),  # one answer is too long: the pair goes
        ([long * 2], "sat", "ran"),
        (["The mat?"], "a", "b"),
    ]
    counts, shards = write_shards(tmp_path, directory, pairs)
    assert (counts.num_in, counts.num_kept, counts.too_long) == (4, 2, 2)
    assert counts.num_truncated == 1
    block = shards.rows(range(4))
    texts = [tokenizer.decode(row[row != PAD_ID].tolist()) for row in block.ids]
    assert all("The cat?" in text and "friends" not in text for text in texts[:2])
    assert ["sat" in texts[0], "ran" in texts[1], "The mat?" in texts[2]] == [True] * 3


def test_shards_of_pairs_that_are_all_too_long_are_refused(tmp_path: Path, directory: Path):
    with pytest.raises(CorpusError, match="no pair of answers is left for training") as error:
        write_shards(tmp_path, directory, [(["cat " * 60], "sat", "ran")])
    assert "found: 1 pairs, all of them longer" in str(error.value)
    assert f"fit {CONTEXT_TOKENS + 1} tokens" in str(error.value)
