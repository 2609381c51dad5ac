"""Edits of Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc


def with_rows(column: pa.Array, values: Mapping[int, object]) -> pa.Array:
    """Return the column with other values in some of its rows, given by row."""
    if not values:
        return column
    changed = pa.array((row in values for row in range(len(column))), pa.bool_())
    in_order = pa.array([values[row] for row in sorted(values)], column.type)
    return pc.replace_with_mask(column, changed, in_order)  # pyright: ignore[reportAttributeAccessIssue]


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """Return the table with another column of the same name and type."""
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), column)
