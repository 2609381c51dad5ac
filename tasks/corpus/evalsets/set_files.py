"""Evaluation sets: parquet files here, or on the hub at a pinned commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tasks.corpus.evalsets.set_texts import EvaluationFile
from tasks.corpus.sources import named_sets as data_sets
from tasks.corpus.sources.named_sets import ListedSet, Purpose

EvaluationSet = ListedSet
PURPOSE = Purpose(
    noun="evaluation set",
    setting="decontamination.sets",
    suffixes=(".parquet",),
    needs_commit=True,
)


def list_sets(
    sets: Mapping[str, str], *, cache: Path, setting: str = PURPOSE.setting
) -> dict[str, EvaluationSet]:
    """Return the files of each set; errors are those of ``data_sets.list_sets``.

    Args:
        setting: that the addresses come from, for errors.
    """
    purpose = replace(PURPOSE, setting=setting)
    return data_sets.list_sets(sets, purpose=purpose, cache=cache)


def evaluation_files(sets: Mapping[str, EvaluationSet], *, downloads: Path) -> list[EvaluationFile]:
    """Return the files of all sets, in the order of their names; those of the hub are fetched.

    Args and errors are those of ``data_sets.set_files``.
    """
    files = data_sets.set_files(sets, downloads=downloads)
    return [EvaluationFile(item.set_name, item.path) for item in files]
