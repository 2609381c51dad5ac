"""Sets of records for the stages read_chats and read_preferences: listed, keyed and read.

The stages differ in the kind of their records and in what the demo generates for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from model.config import Config
from model.store import ArtifactStore, Work
from tasks.chat_config import ChatConfig, PreferenceConfig
from tasks.corpus.checked_sets import Split, write_generated, write_set
from tasks.corpus.data_sets import ListedSet, list_sets, pinned, set_files
from tasks.corpus.demo_chats import DEMO_CHATS_VERSION
from tasks.corpus.foreign_columns import OnBroken
from tasks.corpus.hub_source import DOWNLOAD_FOLDER
from tasks.corpus.raw_file import sweep
from tasks.corpus.records import Fields, RecordKind

DEMO_SET: Final = "demo"

SetsConfigT = TypeVar("SetsConfigT", ChatConfig, PreferenceConfig)
DrawnT = TypeVar("DrawnT")  # of the demo: a conversation, or a pair
DrawnT_co = TypeVar("DrawnT_co", covariant=True)


class GeneratedSet(Config):
    """A set of the demo, which lies in no file.

    Args:
        what: its records are called.
        num_training: records for training; those that measure are as many as may.
    """

    what: Literal["conversations", "pairs"]
    num_training: int


class ReadSet(Config):
    """One set, by content, and which of its records only measure."""

    origin: ListedSet | GeneratedSet
    held_out_frac: float
    max_held_out: int
    on_broken_record: OnBroken
    seed: int

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the tables: files by digest, and what is asked of records."""
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


class Draw(Protocol[DrawnT_co]):
    """Draws what the demo has in place of files."""

    def __call__(self, num: int, *, seed: int) -> Iterable[DrawnT_co]:
        """Return so many, the same for one seed."""
        ...


@dataclass(frozen=True)
class DemoRecords(Generic[DrawnT]):
    """How the demo's records are drawn.

    Args:
        training, held_out: draw those for training, and those that measure.
        fields: returns what is drawn as a record of a file would have it.
    """

    training: Draw[DrawnT]
    held_out: Draw[DrawnT]
    fields: Callable[[DrawnT], Fields]


def pinned_sets(config: SetsConfigT, kind: RecordKind) -> SetsConfigT:
    """Return what names the same records from now on: sets of the hub by their commits."""
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
    """Return what to read, by the name of the set, for the sets as they are now.

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


def build_set(work: Work, config: ReadSet, *, kind: RecordKind, demo: DemoRecords[Any]) -> None:
    """Write training.parquet, held_out.parquet and rejected.parquet of a set."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    if isinstance(config.origin, GeneratedSet):
        training = demo.training(config.origin.num_training, seed=config.seed)
        held_out = demo.held_out(config.max_held_out, seed=config.seed)
        counts = write_generated(
            map(demo.fields, training),
            map(demo.fields, held_out),
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
    work.counts = counts.of_stage()
