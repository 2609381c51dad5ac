"""Stage read_preferences: one set of pairs of answers, checked, with what only measures apart."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, Final

from model.config import Config
from model.store import ArtifactStore, Work
from tasks.chat_config import PreferenceConfig
from tasks.corpus.conversations import SPLIT_ALGORITHM, ChatCounts, Split
from tasks.corpus.data_sets import ListedSet, Purpose, list_sets, pinned, set_files
from tasks.corpus.demo_chats import (
    DEMO_CHATS_VERSION,
    demo_preferences,
    held_out_preferences,
)
from tasks.corpus.hub_source import DOWNLOAD_FOLDER
from tasks.corpus.jsonl import JSONL_SUFFIXES
from tasks.corpus.preferences import write_generated, write_preferences
from tasks.corpus.raw_file import sweep
from tasks.stage import Share, Stage

STEP_VERSION = 1
DEMO_SET: Final = "demo"
PURPOSE = Purpose(
    noun="preference set",
    setting="preference.sets",
    suffixes=(".parquet", *JSONL_SUFFIXES),
    needs_commit=False,
)


class ReadPreferences(Config):
    """One set, by content, and which of its pairs only measure.

    Args:
        listed: its files; ``None`` stands for the demo's generated pairs.
    """

    listed: ListedSet | None
    preference: PreferenceConfig
    seed: int

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the tables: files by digest, and what is asked of records."""
        preference = self.preference
        if self.listed is None:
            return {
                "kind": "demo",
                "version": DEMO_CHATS_VERSION,
                "num_pairs": preference.demo_pairs,
                "num_held_out": preference.max_held_out,
                "seed": self.seed,
            }
        source = self.listed.source
        fields = {"kind", "repo", "revision"} if source.kind == "hub" else {"kind"}
        return source.model_dump(mode="json", include=fields) | {
            "files": [{"file": file.path, "digest": file.digest} for file in self.listed.files],
            "held_out_frac": preference.held_out_frac,
            "max_held_out": preference.max_held_out,
            "on_broken_record": preference.on_broken_record,
            "seed": self.seed,
        }


def pinned_preferences(preference: PreferenceConfig) -> PreferenceConfig:
    """Return what names the same pairs from now on: sets of the hub by their commits."""
    if preference.kind == "demo":
        return preference
    return preference.model_copy(update={"sets": pinned(preference.sets, purpose=PURPOSE)})


def preference_sets(
    preference: PreferenceConfig, *, data_seed: int, store: ArtifactStore
) -> Mapping[str, ReadPreferences]:
    """Return what to read, by the name of the set, for the sets as they are now.

    Raises:
        SourceError: a set is missing, or cannot be listed.
        ConfigError: the address of a set is incomplete.
    """

    def reading(listed: ListedSet | None) -> ReadPreferences:
        return ReadPreferences(listed=listed, preference=preference, seed=data_seed)

    if preference.kind == "demo":
        return {DEMO_SET: reading(None)}
    listed = list_sets(preference.sets, purpose=PURPOSE, cache=store.root / "cache")
    return {name: reading(item) for name, item in listed.items()}


def build(work: Work, config: ReadPreferences, share: Share) -> None:  # noqa: ARG001
    """Write training.parquet, held_out.parquet and rejected.parquet."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    if config.listed is None:
        counts = _generated(config, work)
    else:
        downloads = work.path / DOWNLOAD_FOLDER
        preference = config.preference
        counts = write_preferences(
            set_files({work.derivation.name: config.listed}, downloads=downloads),
            split=Split(preference.held_out_frac, preference.max_held_out, seed=config.seed),
            on_broken=preference.on_broken_record,
            destination=work.path,
        )
        shutil.rmtree(downloads, ignore_errors=True)
    work.counts = counts.of_stage()


def _generated(config: ReadPreferences, work: Work) -> ChatCounts:
    preference = config.preference
    return write_generated(
        demo_preferences(preference.demo_pairs, seed=config.seed),
        held_out_preferences(preference.max_held_out, seed=config.seed),
        file=DEMO_SET,
        destination=work.path,
    )


read_preferences = Stage(
    "read_preferences",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"split": SPLIT_ALGORITHM},
)
