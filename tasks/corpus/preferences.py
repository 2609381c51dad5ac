"""Checked pairs of answers of one set: those for training, those that only measure, and the rest.

    training.parquet, held_out.parquet   file, row, prompt: list of struct (role, content),
                                         chosen, rejected: texts of the answers
    rejected.parquet                     file, row, reason, detail: records that are no pair

Which side a pair is on, the words its prompt opens with decide, as for the conversations of
``tasks.corpus.conversations``: with one seed, an opening has one place in both. The caller is
``read_preferences``; ``tasks.tokens`` reads on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from model.errors import CorpusError
from tasks.corpus.conversations import (
    HELD_OUT_NAME,
    REJECTED_NAME,
    REJECTED_SCHEMA,
    TRAINING_NAME,
    ChatCounts,
    HeldOut,
    Row,
    RowTable,
    Split,
)
from tasks.corpus.data_sets import SetFile
from tasks.corpus.foreign_columns import OnBroken
from tasks.corpus.preference_records import (
    REASONS,
    BrokenPairError,
    Pair,
    PairRecord,
    broken_pair,
    checked_pair,
    read_pairs,
)

PAIR_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
    ]
)

GeneratedPair = tuple[Sequence[Mapping[str, str]], str, str]


def write_preferences(
    files: Iterable[SetFile], *, split: Split, on_broken: OnBroken, destination: Path
) -> ChatCounts:
    """Check every record of a set's files and write the three tables.

    Raises:
        SourceRecordError: a record is no pair and ``on_broken`` is "fail".
        SourceSchemaError: a file has no columns of answers.
        SourceError: a file cannot be read.
        CorpusError: no pair is left for training, or none to measure on.
    """
    rejected: Counter[str] = Counter()
    held_out = HeldOut(split)
    with (
        RowTable(destination / TRAINING_NAME, PAIR_SCHEMA) as training,
        RowTable(destination / HELD_OUT_NAME, PAIR_SCHEMA) as measuring,
        RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA) as refused,
    ):
        for item in files:
            for record in read_pairs(item):
                pair = _checked(record, item, on_broken=on_broken)
                if isinstance(pair, BrokenPairError):
                    rejected[pair.reason] += 1
                    refused.add(_refused_row(record, item, pair))
                else:
                    row = _row(item.file.path, record.row, pair)
                    if not held_out.take(row, split.place(pair.prompt)):
                        training.add(row)
        measuring.add(*held_out.rows())
    counts = ChatCounts(
        num_in=training.num_rows + held_out.num_taken + refused.num_rows,
        num_training=training.num_rows,
        num_held_out=measuring.num_rows,
        rejected={reason: rejected[reason] for reason in REASONS},
        over_limit=held_out.num_taken - measuring.num_rows,
    )
    _require_some(counts)
    return counts


def write_generated(
    training: Iterable[GeneratedPair],
    held_out: Iterable[GeneratedPair],
    *,
    file: str,
    destination: Path,
) -> ChatCounts:
    """Write the three tables of pairs that were generated for one side or the other."""
    counts: list[int] = []
    for name, pairs in ((TRAINING_NAME, training), (HELD_OUT_NAME, held_out)):
        with RowTable(destination / name, PAIR_SCHEMA) as table:
            for row, (prompt, chosen, rejected) in enumerate(pairs):
                fields = {"prompt": list(prompt), "chosen": chosen, "rejected": rejected}
                table.add(_row(f"{file}/{name}", row, checked_pair(fields)))
        counts.append(table.num_rows)
    with RowTable(destination / REJECTED_NAME, REJECTED_SCHEMA):
        pass
    return ChatCounts(
        num_in=sum(counts),
        num_training=counts[0],
        num_held_out=counts[1],
        rejected=dict.fromkeys(REASONS, 0),
    )


def _checked(record: PairRecord, item: SetFile, *, on_broken: OnBroken) -> Pair | BrokenPairError:
    try:
        return checked_pair(record.fields)
    except BrokenPairError as broken:
        if on_broken == "fail":
            raise broken_pair(broken, where=f"{item.where}, {record.where}") from broken
        return broken


def _row(file: str, row: int, pair: Pair) -> Row:
    prompt = [turn.model_dump() for turn in pair.prompt]
    return {
        "file": file,
        "row": row,
        "prompt": prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }


def _refused_row(record: PairRecord, item: SetFile, broken: BrokenPairError) -> Row:
    place = {"file": item.file.path, "row": record.row}
    return {**place, "reason": broken.reason, "detail": f"{record.where}: {broken.found}"}


def _require_some(counts: ChatCounts) -> None:
    if not counts.num_training or not counts.num_held_out:
        reasons = ", ".join(f"{name} {count}" for name, count in counts.rejected.items() if count)
        raise CorpusError(
            "a preference set leaves nothing to learn from or nothing to measure on",
            expected="at least one pair for training and one held out",
            found=f"{counts.num_training} and {counts.num_held_out} of {counts.num_in} records; "
            f"rejected: {reasons or 'none'}",
            fix="name other files in preference.sets, or change preference.held_out_frac",
        )
