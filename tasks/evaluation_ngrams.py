"""Stage evaluation_ngrams: the runs of words that training documents must not hold."""

from __future__ import annotations

import shutil
from dataclasses import asdict

from model.config import Config
from model.store import Work
from tasks.config import DecontaminationConfig
from tasks.corpus.contamination import write_ngrams
from tasks.corpus.evaluation_sets import evaluation_files, set_digests
from tasks.corpus.shingles import VERSION as WORDS_VERSION
from tasks.stage import Share, Stage

STEP_VERSION = 1


class EvaluationNgrams(Config):
    """Which sets, by content."""

    decontamination: DecontaminationConfig
    digests: dict[str, list[str]]

    @classmethod
    def of(cls, config: DecontaminationConfig) -> EvaluationNgrams:
        """Return the config with the digests of its sets as they are now."""
        return cls(decontamination=config, digests=set_digests(config.sets))


def build(work: Work, config: EvaluationNgrams, share: Share) -> None:  # noqa: ARG001
    """Write ngrams.npy, items.npy and sets.json."""
    downloads = work.path / "downloads"
    counts = write_ngrams(
        evaluation_files(config.decontamination.sets, downloads=downloads),
        config=config.decontamination,
        destination=work.path,
    )
    shutil.rmtree(downloads, ignore_errors=True)
    work.counts = {"num_ngrams": counts.num_ngrams}
    work.facts = asdict(counts)


evaluation_ngrams = Stage(
    "evaluation_ngrams",
    version=STEP_VERSION,
    build=build,
    scope="corpus",
    retries=5,
    algorithms={"words": str(WORDS_VERSION)},
)
