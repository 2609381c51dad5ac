"""Stage evaluation_ngrams: index of the word n-grams of evaluation sets."""

from __future__ import annotations

import shutil
from typing import Annotated

from model.core.config import RUNTIME_ONLY, Config
from model.core.outputs import Counts, Outputs
from model.core.store import ArtifactStore, Work
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.decontamination import NgramFacts, write_ngrams
from tasks.corpus.evalsets.sets import evaluation_files, purpose
from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.corpus.sources.hub import DOWNLOAD_FOLDER
from tasks.corpus.sources.named_sets import ListedSet, list_sets
from tasks.corpus.sources.raw_file import sweep
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 2


class EvaluationNgramsCounts(Counts):
    """Different n-grams, over all sets."""

    num_ngrams: int


class EvaluationNgramsOutputs(
    Outputs[EvaluationNgramsCounts, NgramFacts], stage="evaluation_ngrams"
):
    """An index of n-grams; ``NgramIndex`` reads its directory."""


class EvaluationNgrams(Config):
    """Which sets, by content, and how many words are an n-gram."""

    sets: Annotated[dict[str, ListedSet], RUNTIME_ONLY]
    digests: dict[str, list[str]]
    ngram_words: int


def listed_sets(config: DecontaminationConfig, *, store: ArtifactStore) -> EvaluationNgrams:
    """Return the config of the stage for the sets as they are now.

    Raises:
        SourceError: a set is missing, or cannot be listed.
        ConfigError: the address of a set is incomplete.
    """
    sets = list_sets(
        config.sets, purpose=purpose("decontamination.sets"), cache=store.root / "cache"
    )
    digests = {name: listed.digests for name, listed in sets.items()}
    return EvaluationNgrams(sets=sets, digests=digests, ngram_words=config.ngram_words)


def build(work: Work, config: EvaluationNgrams, share: ResourceShare) -> None:  # noqa: ARG001
    """Write ngrams.npy, items.npy and sets.json, resuming earlier downloads."""
    sweep(work.path, keep=DOWNLOAD_FOLDER)
    downloads = work.path / DOWNLOAD_FOLDER
    facts = write_ngrams(
        evaluation_files(config.sets, downloads=downloads),
        ngram_words=config.ngram_words,
        destination=work.path,
    )
    if downloads.exists():
        shutil.rmtree(downloads)
    counts = EvaluationNgramsCounts(num_ngrams=facts.num_ngrams)
    EvaluationNgramsOutputs.record(work, counts, facts)


evaluation_ngrams = Stage(
    EvaluationNgramsOutputs,
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    resume=True,
    retries=5,
    algorithms={"words": WORDS_ALGORITHM},
)
