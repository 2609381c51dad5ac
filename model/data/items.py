"""Items of multiple-choice evaluation sets. No torch.

``tasks.corpus.evalsets.items`` makes them from the files of well-known sets,
``model.eval.multiple_choice`` scores them.

    items.parquet   one row per item: task, category, subset, number, contexts, choices, gold

With one context, an item asks for its likeliest choice; with several contexts and one choice, for
the context that makes it likeliest (WinoGrande); with one of each, whether greedy decoding gives
the choice (LAMBADA). Context and choice are joined by one space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import ArtifactError

ITEMS_NAME: Final = "items.parquet"
DELIMITER: Final = " "  # the harness's target_delimiter
SCHEMA: Final = pa.schema(
    [
        ("task", pa.string()),
        ("category", pa.string()),
        ("subset", pa.string()),
        ("number", pa.int64()),
        ("contexts", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("gold", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Item:
    """One question to a model."""

    task: str  # name of the evaluation set
    category: str  # group of subsets; empty where the set has none
    subset: str  # part of the set that has a score of its own; empty where the set is one
    number: int  # row in the set's files
    contexts: tuple[str, ...]  # one, or one per choice
    choices: tuple[str, ...]  # one, or one per answer, without the space before it
    gold: int  # index of the right answer

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Return context and continuation of each answer."""
        num = max(len(self.contexts), len(self.choices))
        contexts = self.contexts * (num // len(self.contexts))
        choices = self.choices * (num // len(self.choices))
        return [
            (context, DELIMITER + choice) for context, choice in zip(contexts, choices, strict=True)
        ]


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write items in their order."""
    pq.write_table(pa.Table.from_pylist([asdict(item) for item in items], schema=SCHEMA), path)


def read_items(path: Path) -> list[Item]:
    """Return the items of a file."""
    try:
        columns = pq.read_table(path).select(SCHEMA.names).to_pydict()
    except (OSError, KeyError, pa.ArrowException) as exc:
        raise ArtifactError(
            "the items of an evaluation cannot be read",
            expected=f"a parquet file with the columns {', '.join(SCHEMA.names)}",
            found=exc,
            where=path,
            fix="delete the artifact and let its stage run again",
        ) from exc
    columns |= {name: list(map(tuple, columns[name])) for name in ("contexts", "choices")}
    rows = zip(*(columns[field.name] for field in fields(Item)), strict=True)
    return [Item(*row) for row in rows]


def items_digest(items: Sequence[Item]) -> str:
    """Return the sha256 of the items: scores are comparable only between equal digests."""
    digest = hashlib.sha256()
    for item in items:
        asked = [item.task, item.subset, item.contexts, item.choices, item.gold]
        digest.update(json.dumps(asked).encode())
    return digest.hexdigest()


def by_task(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Return the items of each task, in the order of first occurrence."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.task, []).append(item)
    return found
