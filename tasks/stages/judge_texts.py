"""Stage judge_texts: how good the texts are that a model wrote while it was scored."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.core.artifact import canonical_json
from model.core.config import Config
from model.core.files import write_synced
from model.core.store import Work
from model.data.prompts import GENERATIONS_NAME, read_generations
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.demo.corpus import DEMO_CORPUS_VERSION
from tasks.corpus.evalsets.link_grammar import PROGRAM, parser_version
from tasks.corpus.evalsets.text_quality import TextScores, score_texts
from tasks.engine.stage import Share, Stage

STEP_VERSION = 1
JUDGEMENT_NAME = "judgement.json"
SENTENCES_NAME = "sentences.parquet"
SENTENCES = pa.schema(
    [("text_number", pa.int64()), ("sentence", pa.string()), ("parser_accepted", pa.bool_())]
)


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


def build(work: Work, config: JudgeTexts, share: Share) -> None:  # noqa: ARG001
    """Write judgement.json and sentences.parquet. Input: ``scores``, of score_model."""
    generations = read_generations(work.input("scores") / GENERATIONS_NAME)
    scores = score_texts(generations, has_parser=config.parser is not None, is_demo=config.is_demo)
    _write(work, scores)
    work.counts = scores.counts
    work.facts = {**scores.metrics, "absent": _absent(config, scores)}


def _absent(config: JudgeTexts, scores: TextScores) -> dict[str, str]:
    """Return why a measure is not there."""
    if "parser_accepted" in scores.metrics:
        return {}
    reason = "no whole sentence was written"
    if config.parser is None:
        reason = f"{PROGRAM} is not installed here (Debian package link-grammar), or switched off"
    return {"parser_accepted": reason}


def _write(work: Work, scores: TextScores) -> None:
    content = {**scores.metrics, **scores.counts}
    write_synced(work.path / JUDGEMENT_NAME, canonical_json(content).encode())
    rows = [asdict(item) for item in scores.sentences]
    pq.write_table(pa.Table.from_pylist(rows, schema=SENTENCES), work.path / SENTENCES_NAME)


judge_texts = Stage("judge_texts", version=STEP_VERSION, build=build, scope="corpus")
