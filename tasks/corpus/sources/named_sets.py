"""Named sets of files, local or on the hub at a commit, by addresses that all settings share.

    path/to/file.parquet   a folder   a glob          files on this machine
    hub:owner/name@<revision>:<glob>                  parquet files of a Hugging Face data set

A ``Purpose`` restricts the file types, and whether a revision may be a branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.core.config import Config
from model.core.errors import ConfigError, DownloadError, SourceError
from tasks.config.corpus import SourceConfig
from tasks.corpus.sources.source_files import (
    SourceFile,
    list_files,
    original_file,
    resolve_revision,
)

HUB_PREFIX = "hub:"
_HUB_SET = re.compile(r"hub:(?P<repo>[^@:]+/[^@:]+)@(?P<revision>[^@:]+):(?P<files>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Purpose:
    """Restrictions on sets and the words of their errors."""

    noun: str  # name of a set in an error
    setting: str  # the setting that names the sets
    suffixes: tuple[str, ...]  # of the files that count
    needs_commit: bool  # a branch of a hub set is refused, not looked up

    @property
    def kinds(self) -> str:
        """The files that count, in words."""
        return " or ".join(suffix.removeprefix(".") for suffix in self.suffixes)


class ListedSet(Config):
    """A set: its source, and its files as they were listed."""

    source: SourceConfig
    files: tuple[SourceFile, ...]

    @property
    def digests(self) -> list[str]:
        """Identity of the content: digests of local files, or commit and path on the hub."""
        return [file.digest for file in self.files]


@dataclass(frozen=True)
class SetFile:
    """One file of a set, on this machine."""

    set_name: str
    file: SourceFile
    path: Path
    where: str  # its local path, or its address on the hub, for errors


def list_sets(sets: Mapping[str, str], *, purpose: Purpose, cache: Path) -> dict[str, ListedSet]:
    """Return the files of each set, in the order of their names.

    Args:
        sets: name -> address.
        cache: folder for hub listings and hashes.

    Raises:
        SourceError: a set has no file.
        DownloadError: the hub refused, or cannot be reached and was never asked before.
        ConfigError: a hub address is incomplete.
    """
    return {
        name: _list_set(name, place, purpose=purpose, cache=cache)
        for name, place in sorted(sets.items())
    }


def pinned(sets: Mapping[str, str], *, purpose: Purpose) -> dict[str, str]:
    """Return the addresses of sets with each hub branch or tag replaced by its current commit.

    Raises:
        DownloadError: the hub names no commit.
        ConfigError: a hub address is incomplete.
    """
    return {name: _pinned(address, purpose) for name, address in sets.items()}


def _pinned(address: str, purpose: Purpose) -> str:
    source = _source(address, purpose)
    if source.kind != "hub":
        return address
    return f"{HUB_PREFIX}{source.repo}@{source.revision}:{source.files}"


def set_files(sets: Mapping[str, ListedSet], *, downloads: Path) -> list[SetFile]:
    """Return the files of all sets, in the order of their names; those of the hub are fetched.

    Args:
        downloads: folder for interrupted downloads, which the next call resumes.

    Raises:
        SourceError: a file is not the one that was listed.
        DownloadError: the hub does not give it.
    """
    listed = [
        (name, listed_set.source, file)
        for name, listed_set in sorted(sets.items())
        for file in listed_set.files
    ]
    return [
        _obtained(name, source, file, downloads=downloads / str(number))
        for number, (name, source, file) in enumerate(listed)
    ]


def _obtained(name: str, source: SourceConfig, file: SourceFile, *, downloads: Path) -> SetFile:
    path = original_file(source, file, downloads=downloads)
    where = f"{HUB_PREFIX}{source.repo}@{source.revision}:{file.path}"
    return SetFile(name, file, path, where if source.kind == "hub" else str(path))


def _list_set(name: str, address: str, *, purpose: Purpose, cache: Path) -> ListedSet:
    source = _source(address, purpose)
    try:
        files = list_files(source, data_seed=0, cache=cache)
    except DownloadError:
        raise
    except SourceError as error:
        raise _unusable(
            name,
            error.problem,
            purpose,
            expected=error.expected,
            found=error.found,
            where=error.where,
        ) from error
    fitting = tuple(file for file in files if file.path.endswith(purpose.suffixes))
    if not fitting:
        found = ", ".join(file.path for file in files[:4])
        problem = f"no file is {purpose.kinds}"
        raise _unusable(
            name, problem, purpose, expected=f"{purpose.kinds} files", found=found, where=address
        )
    return ListedSet(source=source, files=fitting)


def _source(address: str, purpose: Purpose) -> SourceConfig:
    if not address:
        raise ConfigError(
            f"{purpose.noun}: the address is empty",
            expected="a file, a folder or a glob, or hub:owner/name@<revision>:<glob>",
            found="an empty string",
            where=purpose.setting,
            fix=f"give the {purpose.kinds} files, or leave the set out",
        )
    if not address.startswith(HUB_PREFIX):
        return SourceConfig(kind="local", path=address)
    match = _HUB_SET.fullmatch(address)
    if match and (_COMMIT.fullmatch(match["revision"]) or not purpose.needs_commit):
        repo, revision, files = match.groups()
        source = SourceConfig(kind="hub", repo=repo, revision=revision, files=files)
        return resolve_revision(source)
    revision = "commit, 40 hex digits" if purpose.needs_commit else "commit or branch"
    fix = "name the commit, so that the set never changes"
    raise ConfigError(
        f"{purpose.noun}: the address on the hub is incomplete",
        expected=f"hub:owner/name@<{revision}>:<glob of parquet files>",
        found=address,
        where=purpose.setting,
        fix=fix if purpose.needs_commit else "name the commit or branch, and which of its files",
    )


def _unusable(
    name: str, problem: str, purpose: Purpose, *, expected: object, found: object, where: object
) -> SourceError:
    return SourceError(
        f"{purpose.noun} {name}: {problem}",
        expected=expected,
        found=found,
        where=where,
        fix=f"set {purpose.setting}.{name} to a {purpose.kinds} file, or a folder or glob of them",
    )
