"""Dataset card of a published corpus, from ``card.md.jinja``: metadata for the Hub, and its origin.

The text depends on the corpus and its settings alone, never on when or where it was written. Its
YAML header holds texts quoted as in JSON, which YAML reads as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.core.outputs import Counts
from tasks.config.run import CardConfig
from tasks.corpus.sources.licences import LICENCES, UNKNOWN_LICENCE, Licence
from tasks.corpus.templates import render

TEMPLATE = Path(__file__).with_name("card.md.jinja")
REMOVED_FOR = {  # kind of removal other than copies within the corpus -> its name on the card
    "validation": "validation documents and what looks like them",
    "contaminated": "text of evaluation sets",
}


@dataclass(frozen=True)
class Provenance:
    """Source of a clean corpus, and the documents taken out of it."""

    source: Mapping[str, Any]  # settings that identify the source: kind, repository, revision
    num_files: int
    num_source: int  # documents of the source
    # Of each group that shaped the text, by group; ``filter`` is required.
    settings: Mapping[str, Mapping[str, Any]]
    rejected: Mapping[str, int]  # documents the filter dropped, by reason
    removed: Mapping[str, int]  # documents deduplication removed, by kind
    low_quality: Mapping[str, int]  # documents the quality model removed, by reason


class DatasetCounts(Counts):
    """Documents of the training and of the validation split."""

    num_docs: int
    num_validation: int


def card_text(provenance: Provenance, counts: DatasetCounts, *, card: CardConfig) -> str:
    """Return the card of a data set."""
    repository = provenance.source.get("repo")
    licence = LICENCES.get(str(repository), UNKNOWN_LICENCE)
    if card.license:
        licence = Licence(card.license, f"{card.license}, as its user states")
    splits = {"train": counts.num_docs, "validation": counts.num_validation}
    return render(
        TEMPLATE,
        name=card.name
        or f"Clean text from {repository or 'a {kind} source'.format_map(provenance.source)}",
        licence=licence,
        size_category=size_category(sum(splits.values())),
        splits=[split for split, num_rows in splits.items() if num_rows],
        provenance=provenance,
        counts=counts,
        funnel=_funnel(provenance, counts),
    )


def _funnel(provenance: Provenance, counts: DatasetCounts) -> list[tuple[str, int]]:
    names = {kind: REMOVED_FOR.get(kind, f"copies: {kind}") for kind in provenance.removed}
    return [
        ("in the source", provenance.num_source),
        *((f"filter: {reason}", -count) for reason, count in provenance.rejected.items()),
        *((names[kind], -count) for kind, count in provenance.removed.items()),
        *((f"quality model: {reason}", -count) for reason, count in provenance.low_quality.items()),
        ("training", counts.num_docs),
    ]


def size_category(num_rows: int) -> str:
    """Return the size class of the Hub.

    Example:
        >>> size_category(17_445)
        '10K<n<100K'
    """
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
    place = min(len(str(num_rows)) - 3, len(bounds) - 1)
    return f"{bounds[place - 1]}<n<{bounds[place]}" if place > 0 else f"n<{bounds[0]}"
