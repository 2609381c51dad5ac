"""tasks.tokens.record_shards: batches of tables, names of their files, and unreadable tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import ArtifactError
from tasks.tokens.dpo import COLUMNS as PAIR_COLUMNS
from tasks.tokens.record_shards import BATCH_RECORDS, RecordTable, file_names, table_batches
from tasks.tokens.sft import COLUMNS as CHAT_COLUMNS

FIX = "delete the artifact and let its stage run again"


def write_table(path: Path, columns: Sequence[str], *, num_rows: int = 2) -> Path:
    texts = [f"f{number % 2}" for number in range(num_rows)]
    rows = list(range(num_rows))
    pq.write_table(pa.table({name: rows if name == "row" else texts for name in columns}), path)
    return path


def test_table_batches_hold_every_row_once_in_order(tmp_path: Path) -> None:
    num_rows = 2 * BATCH_RECORDS + 1
    path = write_table(tmp_path / "pairs.parquet", PAIR_COLUMNS, num_rows=num_rows)
    batches = list(table_batches(path, columns=["row", "chosen"]))
    assert [batch.num_rows for batch in batches] == [BATCH_RECORDS, BATCH_RECORDS, 1]
    assert {tuple(batch.schema.names) for batch in batches} == {("row", "chosen")}
    assert [row for batch in batches for row in batch["row"].to_pylist()] == list(range(num_rows))


def test_file_names_are_those_of_all_sets_sorted(tmp_path: Path) -> None:
    tables = [
        RecordTable("pairs", write_table(tmp_path / "b.parquet", PAIR_COLUMNS, num_rows=1)),
        RecordTable("chats", write_table(tmp_path / "a.parquet", CHAT_COLUMNS, num_rows=5)),
    ]
    assert file_names(tables) == ("chats/f0", "chats/f1", "pairs/f0")


@pytest.mark.parametrize("columns", [CHAT_COLUMNS, PAIR_COLUMNS], ids=["chats", "pairs"])
def test_unreadable_table_is_named_with_the_columns_wanted(
    tmp_path: Path, columns: list[str]
) -> None:
    path = tmp_path / "training.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(ArtifactError, match="a table of records cannot be read") as caught:
        list(table_batches(path, columns=columns))
    assert caught.value.expected == f"a Parquet file with columns {', '.join(columns)}"
    assert (caught.value.where, caught.value.fix) == (path, FIX)


def test_table_of_pairs_that_lacks_a_column_is_refused_with_those_it_has(tmp_path: Path) -> None:
    path = write_table(tmp_path / "training.parquet", ["file", "row", "prompt", "chosen"])
    with pytest.raises(ArtifactError, match="a table of records cannot be read") as caught:
        list(table_batches(path, columns=PAIR_COLUMNS))
    assert caught.value.expected == "a Parquet file with columns " + (
        "file, row, prompt, chosen, rejected"
    )
    assert caught.value.found == "columns file, row, prompt, chosen"
