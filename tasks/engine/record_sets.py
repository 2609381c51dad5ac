"""Sets of records of the stages read_chats and read_preferences: listed, keyed and read.

The stages differ in the kind of their records and in the generator of the demo's. Shards are
written from the tables of a set: one artifact per set for training, so that a mixture can weight
them, and one of all sets for validation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from model.core.config import Config
from model.core.outputs import Facts, OpenCounts, OutputFile, Outputs
from model.core.store import ArtifactStore, Work
from tasks.config.chat import ChatConfig, PreferenceConfig
from tasks.corpus.chat_data.checked_sets import (
    HELD_OUT_NAME,
    REJECTED_NAME,
    TRAINING_NAME,
    Split,
    write_generated,
    write_set,
)
from tasks.corpus.chat_data.records import Fields, RecordKind
from tasks.corpus.demo.chats import DEMO_CHATS_VERSION
from tasks.corpus.sources.columns import OnBroken
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.named_sets import ListedSet, list_sets, pinned, set_files
from tasks.corpus.sources.raw_file import sweep
from tasks.tokens.record_shards import RecordTable

DEMO_SET: Final = "demo"
VALIDATION: Final = "validation"  # name of the artifact with the shards of all sets

SetsConfigT = TypeVar("SetsConfigT", ChatConfig, PreferenceConfig)


class RecordSetCounts(OpenCounts):
    """Records of a set; in = training + held out + dropped, by reason."""

    num_in: int
    num_training: int
    num_held_out: int

    @property
    def dropped(self) -> dict[str, int]:
        """Records by the reason they were dropped for, zeros included."""
        return self.extras


class RecordSetOutputs(Outputs[RecordSetCounts, Facts]):
    """The records of a set by what became of them."""

    training = OutputFile(TRAINING_NAME)  # records to train on
    held_out = OutputFile(HELD_OUT_NAME)  # records to measure on
    rejected = OutputFile(REJECTED_NAME)  # dropped records, and why

    def of_split(self, split: str) -> Path:
        """Return the records of one split: ``training`` or ``validation``."""
        return self.held_out if split == "validation" else self.training


class RecordShardsFacts(Facts):
    """Tokens of a row's context."""

    context_tokens: int | None = None


class GeneratedSet(Config):
    """A set that the demo generates."""

    # Noun of its records; part of the cache key, as ``num_conversations``.
    what: Literal["conversations", "pairs"]
    num_training: int  # records for training; ``max_held_out`` more are held out


class ReadSet(Config):
    """One set, by content, and its split."""

    origin: ListedSet | GeneratedSet
    held_out_frac: float
    max_held_out: int
    on_broken_record: OnBroken
    seed: int

    def semantic(self) -> dict[str, Any]:
        """Return the identity of the tables: files by digest, settings of checks and split."""
        if isinstance(self.origin, GeneratedSet):
            return {
                "kind": "demo",
                "version": DEMO_CHATS_VERSION,
                f"num_{self.origin.what}": self.origin.num_training,
                "num_held_out": self.max_held_out,
                "seed": self.seed,
            }
        source = self.origin.source
        fields = {"kind", "repo", "revision"} if source.kind == "hub" else {"kind"}
        return source.model_dump(mode="json", include=fields) | {
            "files": [{"file": file.path, "digest": file.digest} for file in self.origin.files],
            "held_out_frac": self.held_out_frac,
            "max_held_out": self.max_held_out,
            "on_broken_record": self.on_broken_record,
            "seed": self.seed,
        }


class DrawFields(Protocol):
    """Draws records of the demo."""

    def __call__(self, num: int, *, seed: int) -> Iterable[Fields]:
        """Return ``num`` records as a file would have them, the same for one seed."""
        ...


@dataclass(frozen=True)
class DemoRecords:
    """Generators of the demo's records for training and held out."""

    training: DrawFields
    held_out: DrawFields


def pinned_sets(config: SetsConfigT, kind: RecordKind) -> SetsConfigT:
    """Return the settings with sets of the hub pinned to their commits."""
    if config.kind == "demo":
        return config
    return config.model_copy(update={"sets": pinned(config.sets, purpose=kind.purpose)})


def sets_to_read(
    config: ChatConfig | PreferenceConfig,
    *,
    kind: RecordKind,
    generated: GeneratedSet,
    data_seed: int,
    store: ArtifactStore,
) -> Mapping[str, ReadSet]:
    """Return the sets to read, by name, with their files as they are now.

    Args:
        generated: the one set of the demo.

    Raises:
        SourceError: a set is missing, or cannot be listed.
        ConfigError: the address of a set is incomplete.
    """
    origins: dict[str, GeneratedSet] | dict[str, ListedSet] = {DEMO_SET: generated}
    if config.kind == "sets":
        origins = list_sets(config.sets, purpose=kind.purpose, cache=store.root / "cache")
    return {
        name: ReadSet(
            origin=origin,
            held_out_frac=config.held_out_frac,
            max_held_out=config.max_held_out,
            on_broken_record=config.on_broken_record,
            seed=data_seed,
        )
        for name, origin in origins.items()
    }


def build_set(
    work: Work,
    config: ReadSet,
    *,
    outputs: type[RecordSetOutputs],
    kind: RecordKind,
    demo: DemoRecords,
) -> None:
    """Write training.parquet, held_out.parquet and rejected.parquet of a set."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    if isinstance(config.origin, GeneratedSet):
        counts = write_generated(
            demo.training(config.origin.num_training, seed=config.seed),
            demo.held_out(config.max_held_out, seed=config.seed),
            kind=kind,
            file=DEMO_SET,
            destination=work.path,
        )
    else:
        downloads = work.path / DOWNLOAD_FOLDER
        counts = write_set(
            set_files({work.derivation.name: config.origin}, downloads=downloads),
            kind=kind,
            split=Split(config.held_out_frac, config.max_held_out, seed=config.seed),
            on_broken=config.on_broken_record,
            destination=work.path,
        )
        shutil.rmtree(downloads, ignore_errors=True)
    dropped = {"over_limit": counts.over_limit, **counts.rejected}
    outputs.record(
        work,
        RecordSetCounts(
            num_in=counts.num_in,
            num_training=counts.num_training,
            num_held_out=counts.num_held_out,
            **dropped,
        ),
    )


def input_tables(
    work: Work, role: str, *, outputs: type[RecordSetOutputs], split: str
) -> list[RecordTable]:
    """Return the table of one split of each set that is an input."""
    return [
        RecordTable(item.name, outputs.of(work.store, item).of_split(split))
        for item in work.derivation.inputs[role]
    ]
