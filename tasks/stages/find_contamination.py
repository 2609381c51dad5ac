"""Stage find_contamination: the documents of one file that hold text of an evaluation set."""

from __future__ import annotations

from model.core.store import Work
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.decontamination import NgramIndex, find_contaminated
from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.engine.stage import Share, Stage

STEP_VERSION = 2


def build(work: Work, config: DecontaminationConfig, share: Share) -> None:  # noqa: ARG001
    """Write contaminated.parquet."""
    counts = find_contaminated(
        work.input("part") / "part.parquet",
        NgramIndex(work.input("ngrams")),
        config=config,
        destination=work.path,
    )
    work.counts = {"num_in": counts.num_in, "num_contaminated": counts.num_contaminated}
    work.facts = {"contamination": counts.num_by_set}


find_contamination = Stage(
    "find_contamination",
    version=STEP_VERSION,
    build=build,
    algorithms={"words": WORDS_ALGORITHM},
)
