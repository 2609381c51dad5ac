"""Stage judge_texts: quality measures of the texts that a model wrote while it was scored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from model.config.outputs import MeasuredFacts, ScoreModelOutputs
from model.core.artifact import canonical_json
from model.core.config import Config
from model.core.files import write_synced
from model.core.outputs import Counts, OutputFile, Outputs
from model.core.store import Work
from model.data.prompts import read_generations
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.demo.corpus import DEMO_CORPUS_VERSION
from tasks.corpus.evalsets.link_grammar import PROGRAM, parser_version
from tasks.corpus.evalsets.text_quality import TextScores, score_texts
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1
SENTENCES = pa.schema(
    [("text_number", pa.int64()), ("sentence", pa.string()), ("parser_accepted", pa.bool_())]
)


class JudgeTextsCounts(Counts):
    """Texts, sentences in them as the parser and as the demo's grammar split them, and answers."""

    num_texts: int
    num_sentences: int
    num_grammar_sentences: int | None = None
    num_questions: int | None = None


class JudgeTextsFacts(MeasuredFacts):
    """Measures of the texts; what was not asked for is absent."""

    repeated_4grams: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    ended: float | None = None
    mean_tokens: float | None = None
    grammar_accepted: float | None = None
    parser_accepted: float | None = None
    answer_accuracy: float | None = None
    absent: dict[str, str] = Field(description="name of a measure that is missing -> why")

    @property
    def unmeasured(self) -> dict[str, str]:
        """Scores that are missing, and why."""
        return self.absent


class JudgeTextsOutputs(Outputs[JudgeTextsCounts, JudgeTextsFacts], stage="judge_texts"):
    """A judgement of texts."""

    judgement = OutputFile("judgement.json")  # measures and counts, as JSON
    # The sentences, and whether the parser accepted them.
    sentences = OutputFile("sentences.parquet")


class JudgeTexts(Config):
    """Who judges."""

    parser: str | None  # name and version: another one may judge otherwise; None: there is none
    is_demo: bool

    @classmethod
    def here(cls, config: EvaluationConfig, *, is_demo: bool) -> JudgeTexts:
        """Return the config of the stage with the parser of this machine, if it has one."""
        parser = parser_version() if config.parser == "auto" else None
        return cls(parser=parser, is_demo=is_demo)

    def semantic(self) -> dict[str, Any]:
        """Return who judges, with the version of the demo's grammar where that does."""
        version = {"demo_version": DEMO_CORPUS_VERSION} if self.is_demo else {}
        return super().semantic() | version


def build(work: Work, config: JudgeTexts, share: ResourceShare) -> None:  # noqa: ARG001
    """Write judgement.json and sentences.parquet. Input: ``scores``, of score_model."""
    generations = read_generations(ScoreModelOutputs.input(work, "scores").generations)
    scores = score_texts(generations, has_parser=config.parser is not None, is_demo=config.is_demo)
    _write(work, scores)
    JudgeTextsOutputs.record(
        work,
        JudgeTextsCounts(**scores.counts),
        JudgeTextsFacts(**scores.metrics, absent=_absent(config, scores)),
    )


def _absent(config: JudgeTexts, scores: TextScores) -> dict[str, str]:
    """Return why a measure is not there."""
    if "parser_accepted" in scores.metrics:
        return {}
    reason = "no whole sentence was written"
    if config.parser is None:
        reason = f"{PROGRAM} is not installed here (Debian package link-grammar), or switched off"
    return {"parser_accepted": reason}


def _write(work: Work, scores: TextScores) -> None:
    outputs = JudgeTextsOutputs(work.path)
    content = {**scores.metrics, **scores.counts}
    write_synced(outputs.judgement, canonical_json(content).encode())
    rows = [asdict(item) for item in scores.sentences]
    pq.write_table(pa.Table.from_pylist(rows, schema=SENTENCES), outputs.sentences)


judge_texts = Stage(JudgeTextsOutputs, version=STEP_VERSION, build=build, scope="corpus")
