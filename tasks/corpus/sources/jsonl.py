"""JSON Lines files, plain, gzip or zstd, read line by line into FineWeb's columns.

A record is a line that holds a JSON object with a string `text`; blank lines are no records. Memory
stays bounded by one batch and by the longest line taken.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from model.core.errors import SourceRecordError
from tasks.corpus.sources.columns import OnBroken, check_mapping
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA, ROW_GROUP_ROWS, RawWriter
from tasks.corpus.sources.raw_file import unreadable

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
MAX_LINE_BYTES = 64 * 2**20

Row = dict[str, Any]


class _BrokenLineError(Exception):
    """A line is not a valid record."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


def count_records(path: Path) -> int:
    """Return the number of lines that are not blank, broken ones included."""
    return sum(1 for _ in read_lines(path))


def copy_records(
    path: Path,
    writer: RawWriter,
    *,
    columns: Mapping[str, str],
    take_rows: int | None,
    on_broken: OnBroken,
) -> int:
    """Append the first `take_rows` records to `writer`; return how many broken ones were left out.

    Raises:
        SourceRecordError: a record is broken and `on_broken` is "fail", or all of them are broken.
        SourceError: the file is cut off, or not of its format.
    """
    check_mapping(columns)
    rows: list[Row] = []
    num_records = num_skipped = 0
    first_broken: SourceRecordError | None = None
    for num_records, (number, line) in enumerate(read_lines(path), start=1):
        try:
            rows.append(_parse(line, columns=columns))
        except _BrokenLineError as broken:
            error = _broken_record(broken, where=f"{path}, line {number}")
            if on_broken == "fail":
                raise error from broken
            first_broken = first_broken or error
            num_skipped += 1
        if len(rows) == ROW_GROUP_ROWS:
            _write(rows, writer)
        if num_records == take_rows:
            break
    if first_broken is not None and num_skipped == num_records:
        raise first_broken
    _write(rows, writer)
    return num_skipped


def _write(rows: list[Row], writer: RawWriter) -> None:
    writer.write(
        {
            field.name: pa.array([row[field.name] for row in rows], field.type)
            for field in FINEWEB_SCHEMA
        }
    )
    rows.clear()


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number from 1, line), without blank lines; None for a line that is too long.

    Raises:
        SourceError: the file is cut off, or not of its format.
    """
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                        line = stream.readline(MAX_LINE_BYTES)
                    yield number, None
                elif not line.isspace():
                    yield number, line
    except OSError as error:
        if error.errno is not None:
            raise
        raise unreadable(error, where=f"{path}, after line {number}") from error


def json_fault(error: ValueError | RecursionError) -> str:
    """Return why a line is not valid JSON, and at which character.

    The message of the error itself names line 1, whichever line of the file it is.
    """
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}: character {error.pos + 1}"
    return str(error)


def _open(path: Path) -> BinaryIO:
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if compression is None:
        return path.open("rb")
    # Arrow's reader, unlike zstandard's, raises where a stream is cut off.
    stream = pa.input_stream(str(path), compression=compression)
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", stream), 2**20))


def _parse(line: bytes | None, *, columns: Mapping[str, str]) -> Row:
    if line is None:
        raise _BrokenLineError(f"a line of at most {MAX_LINE_BYTES:,} bytes", "a longer one")
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _BrokenLineError("text in UTF-8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _BrokenLineError("a JSON object", f"no JSON ({json_fault(error)})") from error
    if not isinstance(record, dict):
        raise _BrokenLineError("a JSON object", f"a JSON {type(record).__name__}")
    text_key = columns.get("text", "text")
    if not isinstance(record.get(text_key), str):
        found = f"{type(record[text_key]).__name__}" if text_key in record else "no such key"
        keys = ", ".join(record) or "none"
        raise _BrokenLineError(f"a string under '{text_key}'", f"{found} (keys: {keys[:300]})")
    return {
        field.name: _convert(record.get(columns.get(field.name, field.name)), field)
        for field in FINEWEB_SCHEMA
    }


def _convert(value: Any, field: pa.Field) -> Any:
    """Return a JSON value as the column's type, or raise; lossy conversions are errors."""
    if value is None:
        return None
    if isinstance(value, str) and field.type == pa.string():
        if value.isascii() or _is_encodable(value):
            return value
        raise _BrokenLineError(f"text in '{field.name}'", "half of a surrogate pair")
    if isinstance(value, int) and not isinstance(value, bool):
        if field.name == "id":
            return str(value)
        if field.type == pa.int64() and -(2**63) <= value < 2**63:
            return value
        if field.type == pa.float64() and abs(value) <= 2**53:
            return float(value)
    if isinstance(value, float) and math.isfinite(value):
        if field.type == pa.float64():
            return value
        if field.type == pa.int64() and value.is_integer():
            return _convert(int(value), field)
    raise _BrokenLineError(f"{field.type} or null in '{field.name}'", f"{value!r:.80}")


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken_record(broken: _BrokenLineError, *, where: str) -> SourceRecordError:
    return SourceRecordError(
        "a record of a source file is broken",
        expected=broken.expected,
        found=broken.found,
        where=where,
        fix='repair the line, name its text with source.columns={"text": "<key>"}, '
        "or set source.on_broken_record=skip",
    )
