"""Evaluation sets: parquet files here, or on the hub at a pinned commit, and the texts of items.

An item's texts are all strings of a row, nested ones too, and its first string followed by each
other one, so that a question together with one of its answers is found as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.errors import SourceError
from tasks.corpus.sources.named_sets import ListedSet, Purpose, set_files


@dataclass(frozen=True)
class EvaluationFile:
    """One parquet file of an evaluation set."""

    evaluation_set: str
    path: Path


@dataclass(frozen=True)
class ItemTexts:
    """The texts of the items of one file."""

    columns: list[str]  # the columns of strings; a field of a struct is named after a dot
    texts: Iterator[list[str]]  # of each item, in row order


def purpose(setting: str) -> Purpose:
    """Return the restrictions on the evaluation sets of a setting."""
    return Purpose("evaluation set", setting, suffixes=(".parquet",), needs_commit=True)


def evaluation_files(sets: Mapping[str, ListedSet], *, downloads: Path) -> list[EvaluationFile]:
    """Return the files of all sets as ``named_sets.set_files`` does."""
    return [
        EvaluationFile(item.set_name, item.path) for item in set_files(sets, downloads=downloads)
    ]


def read_item_texts(file: EvaluationFile) -> ItemTexts:
    """Return the texts of each item of a file; SourceError if it has none."""
    table = read_table(file, setting="decontamination.sets")
    by_column = {field.name: list(_text_fields(field.name, field.type)) for field in table.schema}
    wanted = [name for name, fields in by_column.items() if fields]
    if not wanted:
        raise SourceError(
            f"evaluation set {file.evaluation_set} cannot be read",
            expected="columns of strings, or of lists or structs of them",
            found=f"columns {', '.join(table.schema.names)}",
            where=file.path,
            fix="correct decontamination.sets",
        )
    fields = [field for name in wanted for field in by_column[name]]
    return ItemTexts(fields, _texts(table.select(wanted)))


def read_table(file: EvaluationFile, *, setting: str) -> pa.Table:
    """Return the rows of a file; ``setting`` is named in the SourceError about a broken one."""
    try:
        return pq.read_table(file.path)
    except (OSError, pa.ArrowException) as exc:
        raise SourceError(
            f"evaluation set {file.evaluation_set} cannot be read",
            expected="a parquet file",
            found=exc,
            where=file.path,
            fix=f"correct {setting}",
        ) from exc


def _texts(table: pa.Table) -> Iterator[list[str]]:
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        strings = list(_strings(row))
        yield [*strings, *(f"{strings[0]} {other}" for other in strings[1:])]


def _text_fields(name: str, kind: pa.DataType) -> Iterator[str]:
    """Yield the names of the strings in a column: its own, or those of its structs' fields."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _text_fields(f"{name}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _text_fields(f"{name}.key", kind.key_type)
        yield from _text_fields(f"{name}.value", kind.item_type)
    elif pa.types.is_nested(kind):
        yield from _text_fields(name, kind.field(0).type)
    elif pa.types.is_dictionary(kind):
        yield from _text_fields(name, kind.value_type)
    elif any(is_kind(kind) for is_kind in _STRINGS):
        yield name


_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of a nested value, but for empty ones."""
    if isinstance(value, str):
        yield from [value] if value else []
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
