"""Where evaluation sets lie: parquet files here, or on the hub at a pinned commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from model.config import Config
from model.errors import ConfigError, DownloadError, SourceError
from tasks.config import SourceConfig
from tasks.corpus.evaluation_items import EvaluationFile
from tasks.corpus.sources import SourceFile, list_files, original_file

HUB_PREFIX = "hub:"
_HUB_SET = re.compile(r"hub:(?P<repo>[^@:]+/[^@:]+)@(?P<revision>[0-9a-f]{40}):(?P<files>.+)")


class EvaluationSet(Config):
    """Where one set lies, and its files as they were listed."""

    source: SourceConfig
    files: tuple[SourceFile, ...]

    @property
    def digests(self) -> list[str]:
        """What identifies the content: digests of files here, or commit and path on the hub."""
        return [file.digest for file in self.files]


def list_sets(
    sets: Mapping[str, str], *, cache: Path, setting: str = "decontamination.sets"
) -> dict[str, EvaluationSet]:
    """Return the files of each set, in the order of their names.

    Args:
        sets: name -> address, as in ``decontamination.sets``.
        cache: folder for what need not be asked or hashed twice.
        setting: that the addresses come from, for errors.

    Raises:
        SourceError: a set has no file.
        DownloadError: the hub refused, or cannot be reached and was never asked before.
        ConfigError: a hub address names no commit.
    """
    return {
        name: _list_set(f"{setting}.{name}", place, cache=cache)
        for name, place in sorted(sets.items())
    }


def evaluation_files(sets: Mapping[str, EvaluationSet], *, downloads: Path) -> list[EvaluationFile]:
    """Return the files of all sets, in the order of their names; those of the hub are fetched.

    Args:
        downloads: folder that keeps what arrived, for the next call to go on.

    Raises:
        SourceError: a file is not the one that was listed.
        DownloadError: the hub does not give it.
    """
    listed = [
        (name, evaluation_set.source, file)
        for name, evaluation_set in sorted(sets.items())
        for file in evaluation_set.files
    ]
    return [
        EvaluationFile(name, original_file(source, file, downloads=downloads / str(number)))
        for number, (name, source, file) in enumerate(listed)
    ]


def _list_set(setting: str, address: str, *, cache: Path) -> EvaluationSet:
    source = _source(address, setting=setting)
    try:
        files = list_files(source, data_seed=0, cache=cache)
    except DownloadError:
        raise
    except SourceError as error:
        raise _unusable(
            setting, error.problem, expected=error.expected, found=error.found, where=error.where
        ) from error
    parquet = tuple(file for file in files if file.path.endswith(".parquet"))
    if not parquet:
        found = ", ".join(file.path for file in files[:4])
        raise _unusable(
            setting, "no file is parquet", expected="parquet files", found=found, where=address
        )
    return EvaluationSet(source=source, files=parquet)


def _source(address: str, *, setting: str) -> SourceConfig:
    if not address.startswith(HUB_PREFIX):
        return SourceConfig(kind="local", path=address)
    match = _HUB_SET.fullmatch(address)
    if match:
        repo, revision, files = match.groups()
        return SourceConfig(kind="hub", repo=repo, revision=revision, files=files)
    raise ConfigError(
        "the address of an evaluation set on the hub is incomplete",
        expected="hub:owner/name@<commit, 40 hex digits>:<glob of parquet files>",
        found=address,
        where=setting,
        fix="name the commit, so that the set is the same for ever",
    )


def _unusable(
    setting: str, problem: str, *, expected: object, found: object, where: object
) -> SourceError:
    return SourceError(
        f"evaluation set {setting.rpartition('.')[2]}: {problem}",
        expected=expected,
        found=found,
        where=where,
        fix=f"set {setting} to a parquet file, or a folder or glob of them",
    )
