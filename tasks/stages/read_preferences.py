"""Stage read_preferences: one set of preference pairs, checked, split in training and held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model.core.store import ArtifactStore, Work
from tasks.config.chat import PreferenceConfig
from tasks.corpus.chat_data.checked_sets import SPLIT_ALGORITHM
from tasks.corpus.chat_data.preferences import PAIRS
from tasks.corpus.chat_data.records import Fields
from tasks.corpus.demo.chats import Preference, demo_preferences, held_out_preferences
from tasks.engine.record_sets import (
    DemoRecords,
    GeneratedSet,
    ReadSet,
    RecordSetOutputs,
    build_set,
    pinned_sets,
    sets_to_read,
)
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1


class ReadPreferencesOutputs(RecordSetOutputs, stage="read_preferences"):
    """One set of pairs of answers."""


def pinned_preferences(preference: PreferenceConfig) -> PreferenceConfig:
    """Return the settings with sets of the hub pinned to their commits."""
    return pinned_sets(preference, PAIRS)


def preference_sets(
    preference: PreferenceConfig, *, data_seed: int, store: ArtifactStore
) -> Mapping[str, ReadSet]:
    """Return the sets to read, by name; raises as ``sets_to_read`` does."""
    generated = GeneratedSet(what="pairs", num_training=preference.demo_pairs)
    return sets_to_read(
        preference, kind=PAIRS, generated=generated, data_seed=data_seed, store=store
    )


def build(work: Work, config: ReadSet, share: ResourceShare) -> None:  # noqa: ARG001
    """Write training.parquet, held_out.parquet and rejected.parquet."""
    build_set(work, config, outputs=ReadPreferencesOutputs, kind=PAIRS, demo=DEMO)


def _training(num: int, *, seed: int) -> Iterator[Fields]:
    return map(_fields, demo_preferences(num, seed=seed))


def _held_out(num: int, *, seed: int) -> Iterator[Fields]:
    return map(_fields, held_out_preferences(num, seed=seed))


def _fields(preference: Preference) -> Fields:
    prompt, chosen, rejected = preference
    return {"prompt": list(prompt), "chosen": chosen, "rejected": rejected}


DEMO = DemoRecords(training=_training, held_out=_held_out)
read_preferences = Stage(
    ReadPreferencesOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"split": SPLIT_ALGORITHM},
)
