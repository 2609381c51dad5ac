"""Map the columns of a parquet file to FineWeb's: renamed, cast, NULL where absent.

Only `text` is required. Called for local files, and for hub files without FineWeb's schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from model.core.errors import ConfigError, SourceRecordError, SourceSchemaError
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA, ROW_GROUP_ROWS, RawWriter
from tasks.corpus.sources.raw_file import unreadable

OnBroken = Literal["fail", "skip"]


def is_fineweb(schema: pa.Schema, *, columns: Mapping[str, str]) -> bool:
    """Return whether a file has all FineWeb columns, by name and type, and needs no rewrite."""
    renamed = any(name != found for name, found in columns.items())
    return not renamed and all(
        schema.get_field_index(field.name) >= 0 and schema.field(field.name).type == field.type
        for field in FINEWEB_SCHEMA
    )


def match_columns(
    schema: pa.Schema, *, columns: Mapping[str, str], where: object
) -> dict[str, str | None]:
    """Return for each FineWeb column the file's column that fills it, or None.

    Args:
        columns: FineWeb column -> column of the file, where the names differ.

    Raises:
        ConfigError: `columns` names a column that FineWeb does not have.
        SourceSchemaError: `text` or a mapped column is not there, or a type does not fit.
    """
    check_mapping(columns)
    matched: dict[str, str | None] = {}
    for field in FINEWEB_SCHEMA:
        name = columns.get(field.name, field.name)
        if schema.get_field_index(name) < 0:
            if field.name == "text" or field.name in columns:
                raise _missing(field.name, name, schema, where=where)
            matched[field.name] = None
            continue
        found = schema.field(name).type
        if not _fits(found, field):
            raise _wrong_type(field, f"{name}: {found}", where=where)
        matched[field.name] = name
    return matched


def check_mapping(columns: Mapping[str, str]) -> None:
    """Check that `source.columns` has only FineWeb columns on its left side.

    Raises:
        ConfigError: it has another.
    """
    unknown = sorted(set(columns) - set(FINEWEB_SCHEMA.names))
    if unknown:
        raise ConfigError(
            "source.columns maps a column that the corpus does not have",
            expected=f"keys among {', '.join(FINEWEB_SCHEMA.names)}",
            found=", ".join(unknown),
            where="source.columns",
            fix='write it as FineWeb column -> column of your files, e.g. {"text": "content"}',
        )


def copy_rows(
    parquet: pq.ParquetFile,
    writer: RawWriter,
    *,
    columns: Mapping[str, str],
    take_rows: int | None,
    on_broken: OnBroken,
    where: object,
) -> int:
    """Append the first rows of a file to `writer`; return how many broken ones were left out.

    Row groups are read one after another and only as far as needed.
    """
    matched = match_columns(parquet.schema_arrow, columns=columns, where=where)
    num_read = num_skipped = 0
    for batch in _batches(parquet, [name for name in matched.values() if name], where=where):
        wanted = batch if take_rows is None else batch.slice(0, take_rows - num_read)
        good = _without_broken_text(wanted, first_row=num_read, on_broken=on_broken, where=where)
        num_read += wanted.num_rows
        num_skipped += wanted.num_rows - good.num_rows
        writer.write(_cast(good, matched, where=where))
        if num_read == take_rows:
            break
    return num_skipped


def _batches(
    parquet: pq.ParquetFile, names: list[str], *, where: object
) -> Iterator[pa.RecordBatch]:
    try:
        for group in range(parquet.num_row_groups):
            yield from parquet.iter_batches(ROW_GROUP_ROWS, row_groups=[group], columns=names)
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(error, where=where) from error


def _without_broken_text(
    batch: pa.RecordBatch, *, first_row: int, on_broken: OnBroken, where: object
) -> pa.RecordBatch:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        good = [_is_utf8(batch, row) for row in range(batch.num_rows)]
        if on_broken == "fail" or all(good):
            row = first_row + (good.index(False) if False in good else 0)
            raise SourceRecordError(
                "a record of a source file is broken",
                expected="text in UTF-8",
                found=str(error),
                where=f"{where}, row {row}",
                fix="repair the row, or set source.on_broken_record=skip",
            ) from error
        return batch.filter(pa.array(good))
    return batch


def _is_utf8(batch: pa.RecordBatch, row: int) -> bool:
    for column in batch.columns:
        if pt.is_string(column.type) or pt.is_large_string(column.type):
            binary = pa.large_binary() if pt.is_large_string(column.type) else pa.binary()
            value = column.slice(row, 1).cast(binary)[0].as_py()
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                return False
    return True


def _cast(
    batch: pa.RecordBatch, matched: Mapping[str, str | None], *, where: object
) -> dict[str, pa.Array]:
    cast: dict[str, pa.Array] = {}
    for field in FINEWEB_SCHEMA:
        name = matched[field.name]
        if name is None:
            cast[field.name] = pa.nulls(batch.num_rows, field.type)
            continue
        try:
            cast[field.name] = batch.column(name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _wrong_type(field, f"{name}: {error}", where=where) from error
    return cast


def _fits(found: pa.DataType, field: pa.Field) -> bool:
    if pt.is_dictionary(found):
        return _fits(found.value_type, field)
    is_text = pt.is_string(found) or pt.is_large_string(found) or pt.is_string_view(found)
    if field.name == "text":
        return is_text
    is_number = pt.is_integer(found) or pt.is_floating(found)
    if pt.is_null(found):
        return True
    if pt.is_string(field.type):
        return is_text or pt.is_integer(found) or pt.is_timestamp(found) or pt.is_date(found)
    return is_number or (pt.is_decimal(found) and pt.is_floating(field.type))


def _missing(column: str, name: str, schema: pa.Schema, *, where: object) -> SourceSchemaError:
    return SourceSchemaError(
        f"a source file lacks the column '{name}'",
        expected=f"'{name}' for the corpus column '{column}'",
        found=f"columns {', '.join(schema.names) or '(none)'}",
        where=where,
        fix=f'name the right one: source.columns={{"{column}": "<column of the file>"}}',
    )


def _wrong_type(field: pa.Field, found: str, *, where: object) -> SourceSchemaError:
    return SourceSchemaError(
        f"a column of a source file does not fit the corpus column '{field.name}'",
        expected=f"values that become {field.type}",
        found=found,
        where=where,
        fix="convert the column, or map another one with source.columns",
    )
