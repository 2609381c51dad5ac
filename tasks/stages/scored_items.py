"""Stage scored_items: evaluation sets as one table of items, in the form that model.eval reads."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import Annotated

from model.core.config import RUNTIME_ONLY, Config
from model.core.outputs import Facts, OpenCounts, OutputFile, Outputs
from model.core.store import ArtifactStore, Work
from model.data.items import ITEMS_NAME, by_task, items_digest, write_items
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.evalsets.items import read_items, require_known
from tasks.corpus.evalsets.sets import evaluation_files, purpose
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.named_sets import ListedSet, list_sets
from tasks.corpus.sources.raw_file import sweep
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1


class ScoredItemsCounts(OpenCounts):
    """Items of each set, as ``num_<set>``."""


class ScoredItemsFacts(Facts):
    """Digest of the items of each set: equal ones compare."""

    digests: dict[str, str]


class ScoredItemsOutputs(Outputs[ScoredItemsCounts, ScoredItemsFacts], stage="scored_items"):
    """The items of all sets."""

    items = OutputFile(ITEMS_NAME)  # one row an item


class ScoredItems(Config):
    """Which sets, by content, and how many items of each."""

    sets: Annotated[dict[str, ListedSet], RUNTIME_ONLY]
    digests: dict[str, list[str]]
    max_items: int | None


def listed_items(config: EvaluationConfig, *, store: ArtifactStore) -> ScoredItems:
    """Return the config of the stage for the sets as they are now.

    Raises:
        SourceError: a set is missing, or cannot be listed.
        ConfigError: a set is unknown, or its address is incomplete.
    """
    require_known(config.sets)
    sets = list_sets(config.sets, purpose=purpose("evaluation.sets"), cache=store.root / "cache")
    digests = {name: listed.digests for name, listed in sets.items()}
    return ScoredItems(sets=sets, digests=digests, max_items=config.max_items)


def build(work: Work, config: ScoredItems, share: ResourceShare) -> None:  # noqa: ARG001
    """Write items.parquet, resuming earlier downloads."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    downloads = work.path / DOWNLOAD_FOLDER
    items = read_items(
        evaluation_files(config.sets, downloads=downloads), max_items=config.max_items
    )
    write_items(ScoredItemsOutputs(work.path).items, items)
    if downloads.exists():
        shutil.rmtree(downloads)
    digests = {task: items_digest(own) for task, own in by_task(items).items()}
    ScoredItemsOutputs.record(
        work,
        ScoredItemsCounts(**Counter(f"num_{item.task}" for item in items)),
        ScoredItemsFacts(digests=digests),
    )


scored_items = Stage(
    ScoredItemsOutputs, version=STEP_VERSION, build=build, scope="corpus", resume=True, retries=5
)
