"""tasks.corpus.chat_data.preferences: valid pairs, file formats, rejected records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.core.errors import CorpusError, SourceRecordError, SourceSchemaError
from model.text.chat_template import Message
from tasks.corpus.chat_data.checked_sets import Split, write_set
from tasks.corpus.chat_data.preferences import PAIR_SCHEMA, PAIRS, checked_pair
from tasks.corpus.chat_data.records import BrokenRecordError
from tasks.corpus.sources.named_sets import SetFile
from tasks.corpus.sources.raw_file import SourceFile


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A record as ultrafeedback_binarized has them: both conversations whole."""
    prompt = [said("user", f"The cat {number}?")]
    fields: dict[str, Any] = {
        "prompt": f"The cat {number}?",
        "prompt_id": str(number),
        "chosen": [*prompt, said("assistant", f"The cat {number} sat.")],
        "rejected": [*prompt, said("assistant", f"No dog {number}.")],
        "score_chosen": 8.0,
    }
    return fields | changes


BROKEN: dict[str, dict[str, Any]] = {
    "missing_answer": record(1, rejected=[]),
    "missing_role": record(2, chosen=[said("user", "The cat 2?"), {"content": "sat"}]),
    "wrong_role": record(3, chosen=[said("user", "The cat 3?"), said("bot", "sat")]),
    "not_text": record(4, chosen=[said("user", "The cat 4?"), {"role": "assistant", "content": 4}]),
    "empty_turn": record(5, rejected=[said("user", "The cat 5?"), said("assistant", " ")]),
    "no_messages": {"chosen": "sat", "rejected": "ran"},
    "not_alternating": record(6, chosen=[said("user", "a"), said("user", "b"), said("user", "c")]),
    "different_prompts": record(7, rejected=[said("user", "The dog?"), said("assistant", "ran")]),
    "equal_answers": record(8, rejected=record(8)["chosen"]),
}


def write_jsonl(path: Path, records: list[dict[str, Any]], *, lines: tuple[str, ...] = ()) -> Path:
    path.write_text("".join(f"{line}\n" for line in (*map(json.dumps, records), *lines)))
    return path


def check(path: Path, destination: Path, *, on_broken: str = "fail", frac: float = 0.4):
    destination.mkdir(exist_ok=True)
    file = SourceFile(name="pairs", path=path.name, digest="")
    return write_set(
        [SetFile("pairs", file, path, str(path))],
        kind=PAIRS,
        split=Split(frac, 100, seed=1),
        on_broken=on_broken,  # pyright: ignore[reportArgumentType]
        destination=destination,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_checked_pair_of_whole_conversations_takes_their_prompt():
    pair = checked_pair(record(1))
    assert pair.prompt == (Message(role="user", content="The cat 1?"),)
    assert (pair.chosen, pair.rejected) == ("The cat 1 sat.", "No dog 1.")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi?", "chosen": "yes", "rejected": "no"},
        {"prompt": [said("user", "Hi?")], "chosen": "yes", "rejected": [said("assistant", "no")]},
        {"messages": [said("user", "Hi?")], "chosen": [said("assistant", "yes")], "rejected": "no"},
        {"messages": [said("user", "no")], "prompt": "Hi?", "chosen": "yes", "rejected": "no"},
    ],
)
def test_checked_pair_of_answers_alone_reads_the_prompt_beside_them(fields: dict[str, Any]):
    pair = checked_pair(fields)
    assert pair.prompt == (Message(role="user", content="Hi?"),)
    assert (pair.chosen, pair.rejected) == ("yes", "no")


@pytest.mark.parametrize(("reason", "fields"), BROKEN.items())
def test_checked_pair_names_what_is_broken(reason: str, fields: dict[str, Any]):
    with pytest.raises(BrokenRecordError) as error:
        checked_pair(fields)
    assert error.value.reason == reason
    assert error.value.found


def test_pairs_from_parquet_and_jsonl_are_the_same_tables(tmp_path: Path):
    records = [record(number) for number in range(20)]
    jsonl = write_jsonl(tmp_path / "pairs.jsonl", records)
    parquet = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(records), parquet)
    counts = [check(path, tmp_path / path.suffix) for path in (jsonl, parquet)]
    assert counts[0] == counts[1]
    assert counts[0].num_in == 20 == counts[0].num_training + counts[0].num_held_out
    assert counts[0].num_held_out >= 2
    for name in ("training.parquet", "held_out.parquet"):
        found, wanted = (
            [dict(row, file="") for row in rows_of(tmp_path / suffix / name)]
            for suffix in (".parquet", ".jsonl")
        )
        assert found == wanted
        assert pq.read_schema(tmp_path / ".jsonl" / name).equals(PAIR_SCHEMA)


def test_pairs_that_open_alike_are_on_one_side(tmp_path: Path):
    records = [record(number % 10) for number in range(40)]
    check(write_jsonl(tmp_path / "pairs.jsonl", records), tmp_path / "out")
    sides = [
        {row["prompt"][0]["content"] for row in rows_of(tmp_path / "out" / name)}
        for name in ("training.parquet", "held_out.parquet")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_broken_pairs_are_counted_by_reason_and_listed(tmp_path: Path):
    good = [record(number) for number in range(10, 30)]
    path = write_jsonl(tmp_path / "pairs.jsonl", [*good, *BROKEN.values()], lines=("{",))
    counts = check(path, tmp_path / "out", on_broken="skip")
    assert counts.rejected == dict.fromkeys(PAIRS.reasons, 1)
    assert counts.num_in == 30
    refused = rows_of(tmp_path / "out" / "rejected.parquet")
    assert [row["row"] for row in refused] == list(range(20, 30))
    assert [row["reason"] for row in refused] == [*BROKEN, "not_json"]
    assert refused[0]["detail"] == "line 21: rejected = []"


def test_broken_pair_fails_naming_file_and_line(tmp_path: Path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [record(0), BROKEN["different_prompts"]])
    with pytest.raises(SourceRecordError, match=r"\(different_prompts\)") as error:
        check(path, tmp_path / "out")
    assert f"where: {path}, line 2" in str(error.value)
    assert "found: message 0 is 'The cat 7?' and 'The dog?'" in str(error.value)
    assert "preference.on_broken_record=skip" in str(error.value)


def test_parquet_without_answers_is_refused_with_its_columns(tmp_path: Path):
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["a"], "chosen": ["b"]}), path)
    with pytest.raises(SourceSchemaError, match="no column of answers") as error:
        check(path, tmp_path / "out")
    assert "found: columns text, chosen" in str(error.value)


def test_set_that_holds_nothing_out_is_refused(tmp_path: Path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [record(0)])
    with pytest.raises(CorpusError, match="nothing to measure on") as error:
        check(path, tmp_path / "out", frac=1e-9)
    assert "found: 1 and 0 of 1 records" in str(error.value)
