"""Where evaluation sets lie: parquet files here, or on the hub at a pinned commit."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Mapping
from pathlib import Path

from model.errors import ConfigError, SourceError
from tasks.corpus.contamination import EvaluationFile
from tasks.corpus.hub_client import list_folder
from tasks.corpus.hub_whole_file import obtain
from tasks.corpus.raw_file import file_sha256

HUB_PREFIX = "hub:"
_HUB_SET = re.compile(r"hub:(?P<repo>[^@:]+/[^@:]+)@(?P<revision>[0-9a-f]{40}):(?P<files>.+)")


def set_digests(sets: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what identifies the content of each set: digests of files here, or the hub's commit.

    Raises:
        SourceError: no file is there.
        ConfigError: a hub address names no commit.
    """
    return {
        name: [address] if _is_hub(address) else [file_sha256(path) for path in _local(address)]
        for name, address in sets.items()
    }


def evaluation_files(sets: Mapping[str, str], *, downloads: Path) -> list[EvaluationFile]:
    """Return the files of all sets, in order; those of the hub are fetched into a folder.

    Raises:
        SourceError: a set has no file.
        DownloadError: the hub does not give it.
    """
    return [
        EvaluationFile(name, path)
        for name, address in sets.items()
        for path in (_from_hub(address, downloads / name) if _is_hub(address) else _local(address))
    ]


def _is_hub(address: str) -> bool:
    if not address.startswith(HUB_PREFIX):
        return False
    if not _HUB_SET.fullmatch(address):
        raise ConfigError(
            "the address of an evaluation set on the hub is incomplete",
            expected="hub:owner/name@<commit, 40 hex digits>:<glob of parquet files>",
            found=address,
            where="decontamination.sets",
            fix="name the commit, so that the set is the same for ever",
        )
    return True


def _local(address: str) -> list[Path]:
    place = Path(address).expanduser()
    if place.is_file():
        return [place]
    pattern = str(place / "*.parquet") if place.is_dir() else str(place)
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 - may be absolute
    if not paths:
        raise SourceError(
            "an evaluation set has no file",
            expected="a parquet file, or a folder or glob of them",
            found="nothing",
            where=place.absolute(),
            fix="correct decontamination.sets",
        )
    return paths


def _from_hub(address: str, folder: Path) -> list[Path]:
    match = _HUB_SET.fullmatch(address)
    assert match
    files = [
        file
        for file in list_folder(match["repo"], match["revision"], "")
        if fnmatch.fnmatchcase(file.path, match["files"])
    ]
    if not files:
        raise SourceError(
            "an evaluation set has no file",
            expected=f"files like {match['files']}",
            found="none of that name in the repository",
            where=address,
            fix="correct decontamination.sets",
        )
    in_order = sorted(files, key=lambda file: file.path)
    return [obtain(file, folder / str(place))[0] for place, file in enumerate(in_order)]
