"""The card of a published corpus: metadata for the Hub, and what a person wants to know.

The text depends on the corpus and its settings alone, never on when or where it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tasks.config.corpus import CardConfig
from tasks.corpus.sources.licences import LICENCES, UNKNOWN_LICENCE, Licence

REMOVED_FOR = {  # kind of removal that is no copy within the corpus -> its name on the card
    "validation": "validation documents and what looks like them",
    "contaminated": "text of evaluation sets",
}


@dataclass(frozen=True)
class Provenance:
    """Where a clean corpus comes from, and what was taken out of it.

    Args:
        source: settings that identify the source: kind, repository, revision.
        num_source: documents of the source.
        settings: of each group that shaped the text, by group: ``filter`` is always there.
        rejected: documents the filter dropped, by reason.
        removed: documents deduplication removed, by kind.
        low_quality: documents the quality model removed, by reason.
    """

    source: Mapping[str, Any]
    num_files: int
    num_source: int
    settings: Mapping[str, Mapping[str, Any]]
    rejected: Mapping[str, int]
    removed: Mapping[str, int]
    low_quality: Mapping[str, int]


@dataclass(frozen=True)
class DatasetCounts:
    """What a data set folder holds; ``files`` are relative to it."""

    num_training: int
    num_validation: int
    files: tuple[str, ...]


def card_text(provenance: Provenance, counts: DatasetCounts, *, card: CardConfig) -> str:
    """Return the card of a data set."""
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
            {
                f"{group}.{name}": value
                for group, settings in provenance.settings.items()
                for name, value in settings.items()
            }
        ),
        "## Licence",
        f"Of the source: {terms}.",
    ]
    return header + "\n" + "\n\n".join(sections) + "\n"


def _source_name(provenance: Provenance) -> str:
    source = provenance.source
    return str(source.get("repo") or f"a {source['kind']} source")


def _licence(provenance: Provenance, card: CardConfig) -> Licence:
    if card.license:
        return Licence(card.license, f"{card.license}, as its user states")
    return LICENCES.get(str(provenance.source.get("repo")), UNKNOWN_LICENCE)


def _front_matter(provenance: Provenance, counts: DatasetCounts, *, name: str, licence: str) -> str:
    """Return the YAML header; texts are quoted as in JSON, which YAML reads as well."""
    splits = {"train": counts.num_training, "validation": counts.num_validation}
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {json.dumps(licence)}",
        f"language: [{json.dumps(provenance.settings['filter']['language'])}]",
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
        *(
            (REMOVED_FOR.get(kind, f"copies: {kind}"), -count)
            for kind, count in provenance.removed.items()
        ),
        *((f"quality model: {reason}", -count) for reason, count in provenance.low_quality.items()),
        ("training", counts.num_training),
    )
    rows = [
        f"| {what} | {count:,} | {100 * count / max(1, provenance.num_source):.1f} % |"
        for what, count in lines
    ]
    return "\n".join(["| | documents | of source |", "|---|---:|---:|", *rows])
