"""Stage find_contamination: documents of one file that contain text of an evaluation set."""

from __future__ import annotations

from pathlib import Path

from model.core.outputs import Counts, Facts, Outputs
from model.core.store import Work
from tasks.config.corpus import DecontaminationConfig
from tasks.corpus.decontamination import CONTAMINATED_NAME, NgramIndex, find_contaminated
from tasks.corpus.shingles import ALGORITHM as WORDS_ALGORITHM
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.evaluation_ngrams import EvaluationNgramsOutputs
from tasks.stages.filter_documents import FilterDocumentsOutputs

STEP_VERSION = 2


class FindContaminationCounts(Counts):
    """Documents looked at, and those with text of an evaluation set."""

    num_in: int
    num_contaminated: int


class FindContaminationFacts(Facts):
    """Documents by evaluation set; one that meets several counts in each."""

    contamination: dict[str, int]


class FindContaminationOutputs(
    Outputs[FindContaminationCounts, FindContaminationFacts], stage="find_contamination"
):
    """The contaminated documents of one file."""

    @property
    def contaminated(self) -> Path:
        """Which they are, and what they share with which set."""
        return self.directory / CONTAMINATED_NAME


def build(work: Work, config: DecontaminationConfig, share: ResourceShare) -> None:  # noqa: ARG001
    """Write contaminated.parquet."""
    counts = find_contaminated(
        FilterDocumentsOutputs.input(work, "part").part,
        NgramIndex(EvaluationNgramsOutputs.input(work, "ngrams").directory),
        config=config,
        destination=work.path,
    )
    FindContaminationOutputs.record(
        work,
        FindContaminationCounts(num_in=counts.num_in, num_contaminated=counts.num_contaminated),
        FindContaminationFacts(contamination=counts.num_by_set),
    )


find_contamination = Stage(
    FindContaminationOutputs,
    version=STEP_VERSION,
    build=build,
    algorithms={"words": WORDS_ALGORITHM},
)
