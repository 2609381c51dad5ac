"""Write the clean text of a corpus as a data set folder in the layout of the Hugging Face Hub.

    README.md                                the card: source, settings, what went, licence
    data/train-00000-of-00003.parquet        kept documents of one source file, FineWeb's columns
    data/validation-00000-of-00001.parquet   held-out documents

Rows keep their order, so the same corpus gives the same bytes. A file appears under its name only
when it is whole: a killed attempt is taken up where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.errors import CorpusError, SourceError
from tasks.config import CardConfig
from tasks.corpus.fineweb import FINEWEB_SCHEMA

CARD = "README.md"
BATCH_ROWS = 8192  # and at most so many in a row group, about 25 MB of text
ODC_BY = (
    "odc-by",
    "Open Data Commons Attribution License (ODC-By) 1.0; use is also subject to Common Crawl's "
    "terms of use",
)
SOURCE_LICENCES = {  # Hub repository -> identifier, and what its card says
    "HuggingFaceFW/fineweb": ODC_BY,
    "HuggingFaceFW/fineweb-edu": ODC_BY,
}
UNKNOWN_LICENCE = (
    "unknown",
    "not known to the program that wrote this; look it up at the source before sharing the data",
)


@dataclass(frozen=True)
class Provenance:
    """Where a clean corpus comes from, and what was taken out of it.

    Args:
        source: settings that identify the source: kind, repository, revision.
        num_source: documents of the source.
        filter_settings: of the filter.
        rejected: documents the filter dropped, by reason.
        dedup_settings: of deduplication.
        removed: documents removed as copies, by kind.
    """

    source: Mapping[str, Any]
    num_files: int
    num_source: int
    filter_settings: Mapping[str, Any]
    rejected: Mapping[str, int]
    dedup_settings: Mapping[str, Any]
    removed: Mapping[str, int]


@dataclass(frozen=True)
class DatasetCounts:
    """What a data set folder holds; ``files`` are relative to it."""

    num_training: int
    num_validation: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Output:
    """One file to write: the rows of a part that are not removed."""

    part: Path
    removed: np.ndarray
    num_rows: int


def write_dataset(
    parts: Mapping[str, Path],
    removed: Path,
    validation: Path,
    *,
    provenance: Provenance,
    card: CardConfig,
    destination: Path,
) -> DatasetCounts:
    """Write a data set folder; a split or a file without a document is left out.

    Args:
        parts: ``part.parquet`` by source file.
        removed: ``removed.parquet``.
        validation: ``validation.parquet``.

    Raises:
        SourceError: a file cannot be read.
        CorpusError: no document is left.
    """
    removed_rows = _removed_rows(removed, parts)
    outputs = [_output(path, removed_rows[file]) for file, path in parts.items()]
    training = [output for output in outputs if output.num_rows]
    if not training:
        raise CorpusError(
            "there is nothing to publish: no document is left",
            found=f"{provenance.num_source:,} documents in the source, all dropped or removed",
            where=removed,
            fix="loosen the filter or deduplication; the corpus report shows what took most",
        )
    held_out = _output(validation, np.array([], dtype=np.int64))
    splits = {"train": training, "validation": [held_out] if held_out.num_rows else []}
    files = [
        _write(output, destination / "data" / f"{split}-{place:05d}-of-{len(outputs):05d}.parquet")
        for split, outputs in splits.items()
        for place, output in enumerate(outputs)
    ]
    counts = DatasetCounts(
        num_training=sum(output.num_rows for output in training),
        num_validation=held_out.num_rows,
        files=tuple(path.relative_to(destination).as_posix() for path in files),
    )
    text = card_text(provenance, counts, card=card)
    (destination / CARD).write_text(text, encoding="utf-8")
    return counts


def _removed_rows(removed: Path, parts: Mapping[str, Path]) -> dict[str, np.ndarray]:
    with _reading(removed):
        table = pq.read_table(removed, columns=["file", "row"])
    files = table["file"].to_numpy(zero_copy_only=False)
    rows = table["row"].to_numpy()
    return {file: rows[files == file] for file in parts}


def _output(part: Path, removed: np.ndarray) -> _Output:
    with _reading(part), pq.ParquetFile(part) as table:
        num_rows = table.metadata.num_rows
    return _Output(part, removed, num_rows - len(removed))


def _write(output: _Output, path: Path) -> Path:
    if _is_whole(path, output.num_rows):
        logging.getLogger(__name__).info("%s is there already", path.name)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    num_rows = 0
    with pq.ParquetWriter(temporary, FINEWEB_SCHEMA, compression="zstd") as writer:
        for batch in _kept(output):
            writer.write_batch(batch)
            num_rows += batch.num_rows
    assert num_rows == output.num_rows, f"{num_rows} rows of {output.part}, not {output.num_rows}"
    temporary.rename(path)
    return path


def _is_whole(path: Path, num_rows: int) -> bool:
    try:
        with pq.ParquetFile(path) as table:
            return table.metadata.num_rows == num_rows
    except (FileNotFoundError, pa.ArrowInvalid):
        return False


def _kept(output: _Output) -> Iterator[pa.RecordBatch]:
    columns = [*FINEWEB_SCHEMA.names, "row"]
    with _reading(output.part), pq.ParquetFile(output.part) as table:
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            is_kept = ~np.isin(batch["row"].to_numpy(), output.removed)
            kept = batch.select(FINEWEB_SCHEMA.names).filter(pa.array(is_kept))
            if kept.num_rows:
                yield kept.cast(FINEWEB_SCHEMA)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise SourceError(
            "a parquet file cannot be read",
            expected="a complete parquet file",
            found=str(error).splitlines()[0],
            where=path,
            fix="delete its artifact and run again: it is made anew",
        ) from error


def card_text(provenance: Provenance, counts: DatasetCounts, *, card: CardConfig) -> str:
    """Return the card of a data set: metadata for the Hub, and what a person wants to know."""
    name = card.name or f"Clean text from {_source_name(provenance)}"
    identifier, terms = _licence(provenance, card)
    header = _front_matter(provenance, counts, name=name, licence=identifier)
    sections = [
        f"# {name}",
        f"{counts.num_training:,} documents for training"
        + (f", {counts.num_validation:,} for validation" if counts.num_validation else "")
        + ", in the columns of FineWeb; written by *LLM from scratch*.",
        "```python\nfrom datasets import load_dataset\n\n"
        'documents = load_dataset("path/to/this/folder", split="train")\n```',
        "## Source",
        _listed({**provenance.source, "files": provenance.num_files}),
        "## What was taken out",
        _funnel_table(provenance, counts),
        "Validation documents were chosen from the source before any filter; documents with the "
        "same words are not in the training split.",
        "## Settings",
        _listed(
            {f"filter.{name}": value for name, value in provenance.filter_settings.items()}
            | {f"dedup.{name}": value for name, value in provenance.dedup_settings.items()}
        ),
        "## Licence",
        f"Of the source: {terms}.",
    ]
    return header + "\n" + "\n\n".join(sections) + "\n"


def _source_name(provenance: Provenance) -> str:
    source = provenance.source
    return str(source.get("repo") or f"a {source['kind']} source")


def _licence(provenance: Provenance, card: CardConfig) -> tuple[str, str]:
    if card.license:
        return card.license, f"{card.license}, as its user states"
    return SOURCE_LICENCES.get(str(provenance.source.get("repo")), UNKNOWN_LICENCE)


def _front_matter(provenance: Provenance, counts: DatasetCounts, *, name: str, licence: str) -> str:
    """Return the YAML header; texts are quoted as in JSON, which YAML reads as well."""
    splits = {"train": counts.num_training, "validation": counts.num_validation}
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {json.dumps(licence)}",
        f"language: [{json.dumps(provenance.filter_settings['language'])}]",
        "task_categories: [text-generation]",
        f"size_categories: [{json.dumps(_size_category(sum(splits.values())))}]",
        "configs:",
        "- config_name: default",
        "  data_files:",
    ]
    for split, num_rows in splits.items():
        if num_rows:
            lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""])


def _size_category(num_rows: int) -> str:
    """Return the size class of the Hub.

    Example:
        >>> _size_category(17_445)
        '10K<n<100K'
    """
    bounds = ((1e3, "1K"), (1e4, "10K"), (1e5, "100K"), (1e6, "1M"), (1e7, "10M"), (1e8, "100M"))
    if num_rows < bounds[0][0]:
        return "n<1K"
    for (_, least), (most_rows, most) in pairwise(bounds):
        if num_rows < most_rows:
            return f"{least}<n<{most}"
    return "100M<n<1B"


def _listed(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"- `{name}`: `{json.dumps(value)}`" for name, value in settings.items())


def _funnel_table(provenance: Provenance, counts: DatasetCounts) -> str:
    lines: Sequence[tuple[str, int]] = (
        ("in the source", provenance.num_source),
        *((f"filter: {reason}", -count) for reason, count in provenance.rejected.items()),
        *((f"copies: {kind}", -count) for kind, count in provenance.removed.items()),
        ("training", counts.num_training),
    )
    rows = [
        f"| {what} | {count:,} | {100 * count / max(1, provenance.num_source):.1f} % |"
        for what, count in lines
    ]
    return "\n".join(["| | documents | of source |", "|---|---:|---:|", *rows])
