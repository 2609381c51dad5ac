"""The tree of errors that users may see: expected, found, where, and what to do.

    LLMError
    ├── ConfigError
    ├── SourceError
    │   ├── SourceSchemaError
    │   ├── SourceRecordError
    │   └── DownloadError
    │       ├── TransientDownloadError
    │       └── CorruptDownloadError
    ├── CorpusError
    ├── ArtifactError
    │   └── TamperedArtifactError
    ├── DiskSpaceError
    ├── TokenizerError
    ├── RegistryError
    │   └── PromotionError
    ├── CheckpointError
    ├── TrainingError
    ├── ServerError
    └── ChildError
        ├── ChildKilledError
        └── ChildInterruptedError

A bug in this project raises AssertionError or a built-in error instead.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class LLMError(Exception):
    """A problem that its reader can fix, in one sentence, and what is known of it.

    Args:
        where: file, line, row, setting or address.
        fix: what to do now.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object = None,
        found: object = None,
        where: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.expected = expected
        self.found = found
        self.where = where
        self.fix = fix
        super().__init__(problem)  # its attributes cross the borders of process pools by pickling

    def __str__(self) -> str:
        parts = {"expected": self.expected, "found": self.found, "where": self.where}
        facts = [f"  {label}: {value}" for label, value in parts.items() if value is not None]
        advice = [f"  what to do: {self.fix}"] if self.fix else []
        return "\n".join([self.problem, *facts, *advice])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(LLMError):
    """A setting is unknown, impossible, or contradicts another."""


class SourceError(LLMError):
    """A source is missing, or a file of it cannot be read."""


class SourceSchemaError(SourceError):
    """A file lacks a column, or a column has another type."""


class SourceRecordError(SourceError):
    """One record of a file is broken; ``where`` names its line."""


class DownloadError(SourceError):
    """The hub refused, or sent other data than listed."""


class TransientDownloadError(DownloadError):
    """A download failed for a transient cause: a retry may succeed."""


class CorruptDownloadError(DownloadError):
    """Bytes differ from the hub's listing."""


class CorpusError(LLMError):
    """A stage would drop (almost) everything, or kept too little to continue."""


class ArtifactError(LLMError):
    """A stored artifact is missing, incomplete or contradicts its manifest."""


class TamperedArtifactError(ArtifactError):
    """Bytes on disk differ from the sha256 their manifest records."""


class DiskSpaceError(LLMError):
    """The disk cannot hold the files of a run."""


class TokenizerError(LLMError):
    """Text or ids do not fit the tokenizer."""


class RegistryError(LLMError):
    """A registered model, version or alias cannot be loaded."""


class PromotionError(RegistryError):
    """A version is not fit to become the champion."""


class CheckpointError(LLMError):
    """A checkpoint cannot be read, or belongs to another run."""


class TrainingError(LLMError):
    """Training cannot continue."""


class ServerError(LLMError):
    """A server that a run needs did not start."""


class ChildError(LLMError):
    """A training, scoring or export process ended badly."""


class ChildKilledError(ChildError):
    """A process died of a signal: another attempt may succeed."""


class ChildInterruptedError(ChildError):
    """A process was asked to stop, and saved its state; not a failure."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def unknown_key(found: str, known: Iterable[str], *, kind: str = "setting") -> ConfigError:
    """Return the error for an unknown name, naming the nearest one."""
    names = list(known)
    nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.0)
    return ConfigError(
        f"unknown {kind} {found!r}; the nearest is {nearest[0]!r}",
        expected=f"one of {', '.join(names)}",
        found=found,
        fix=f"use {nearest[0]}, or leave it out",
    )
