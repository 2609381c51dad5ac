"""Stage find_contamination: documents of one file that contain text of an evaluation set."""

from __future__ import annotations

from model.core.outputs import OutputFile, Outputs
from model.core.store import Work
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.decontamination import (
    CONTAMINATED_NAME,
    ContaminationCounts,
    ContaminationFacts,
    NgramIndex,
    find_contaminated,
)
from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.evaluation_ngrams import EvaluationNgramsOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs

STEP_VERSION = 2


class FindContaminationOutputs(
    Outputs[ContaminationCounts, ContaminationFacts], stage="find_contamination"
):
    """The contaminated documents of one file."""

    # Which they are, and what they share with which set.
    contaminated = OutputFile(CONTAMINATED_NAME)


def build(work: Work, config: DecontaminationConfig, share: ResourceShare) -> None:  # noqa: ARG001
    """Write contaminated.parquet."""
    counts, facts = find_contaminated(
        FilterDocumentsOutputs.input(work, "part").part,
        NgramIndex(EvaluationNgramsOutputs.input(work, "ngrams").directory),
        config=config,
        destination=work.path,
    )
    FindContaminationOutputs.record(work, counts, facts)


find_contamination = Stage(
    FindContaminationOutputs,
    version=STEP_VERSION,
    build=build,
    algorithms={"words": WORDS_ALGORITHM},
)
