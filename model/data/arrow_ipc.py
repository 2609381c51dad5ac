"""Arrow IPC stream files of one record batch, written and memory-mapped without copies.

Used by ``model.data.shards`` and ``model.data.rows``, which define the columns. Every file carries
a format version in its schema metadata, whose values are JSON.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.core.errors import ArtifactError
from model.core.files import missing_file

Access = Literal["any", "random"]

FORMAT_VERSION: Final = 1
_END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def write_stream(
    path: Path, columns: Mapping[str, pa.Array], *, metadata: Mapping[str, Any]
) -> None:
    """Write columns as one record batch, values of ``metadata`` as JSON; buffers are not copied."""
    values = {"format_version": FORMAT_VERSION, **metadata}
    encoded = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata=encoded)
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)


def read_stream(path: Path, *, access: Access = "any") -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Return the mapped record batch of a file and its metadata.

    Args:
        access: ``random`` disables the kernel's read-ahead, which halves the time of a row that is
            on disk.
    """
    if not path.is_file():
        raise missing_file(path)
    try:
        buffer = _map(path, access=access)
        _require_complete(buffer, path=path)
        reader = pa.ipc.open_stream(buffer)
        batches = list(reader)
        metadata = {
            key.decode(): json.loads(value) for key, value in (reader.schema.metadata or {}).items()
        }
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise foreign_file(path, found=exc) from exc
    if len(batches) != 1 or metadata.get("format_version") != FORMAT_VERSION:
        found = f"{len(batches)} batches, format version {metadata.get('format_version')}"
        raise foreign_file(path, found=found)
    return batches[0], metadata


def _map(path: Path, *, access: Access) -> pa.Buffer:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if access == "random":
        mapped.madvise(mmap.MADV_RANDOM)
    return pa.py_buffer(mapped)


def _require_complete(buffer: pa.Buffer, *, path: Path) -> None:
    tail = buffer.slice(max(0, buffer.size - 8)).to_pybytes()
    if tail != _END_OF_STREAM:
        raise ArtifactError(
            "an Arrow file is truncated",
            expected="an end-of-stream mark as its last 8 bytes",
            found=f"{buffer.size} bytes, the last ones {tail.hex()}",
            where=path,
            fix="delete the artifact and let its stage run again",
        )


def to_array(arrow_type: pa.DataType, values: npt.NDArray[Any]) -> pa.Array:
    """Return an Arrow array over the memory of ``values``; another dtype is cast first."""
    contiguous = np.ascontiguousarray(values, dtype=arrow_type.to_pandas_dtype())
    return pa.Array.from_buffers(arrow_type, len(contiguous), [None, pa.py_buffer(contiguous)])


def to_list_array(offsets: npt.NDArray[np.int32], values: pa.Array) -> pa.ListArray:
    """Return a list column: item ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    return pa.ListArray.from_arrays(to_array(pa.int32(), offsets), values)


def view_values(array: pa.Array, arrow_type: pa.DataType) -> Any:
    """Return a view of a column's values, or raise TypeError if they are of another type."""
    if array.type != arrow_type:
        raise TypeError(f"a column of {array.type} instead of {arrow_type}")
    return array.to_numpy(zero_copy_only=True)


def view_offsets(array: pa.Array, *, item_type: pa.DataType) -> npt.NDArray[np.int32]:
    """Return a view of a list column's offsets, or raise TypeError if it lists another type."""
    if array.type != pa.list_(item_type):
        raise TypeError(f"a column of {array.type} instead of {pa.list_(item_type)}")
    return array.offsets.to_numpy(zero_copy_only=True)


def foreign_file(path: Path, *, found: object) -> ArtifactError:
    """Return the error for a file of another format or a damaged one."""
    return ArtifactError(
        "a file cannot be read in the format it should have",
        expected=f"one record batch in an Arrow stream of format version {FORMAT_VERSION}",
        found=found,
        where=path,
        fix="delete the artifact and let its stage run again",
    )
