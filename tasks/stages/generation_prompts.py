"""Stage generation_prompts: prompts of the texts that judge_texts measures."""

from __future__ import annotations

from typing import Any

from model.config.trained_model import Style
from model.core.config import Config
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import Work
from model.data.prompts import PROMPTS_NAME, Prompt, write_prompts
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.demo.chats import DEMO_CHATS_VERSION
from tasks.corpus.demo.corpus import DEMO_CORPUS_VERSION
from tasks.corpus.evalsets.prompts import chat_openings, demo_questions, document_openings
from tasks.engine.stage import ResourceShare, Stage
from tasks.stages.select_validation import SelectValidationOutputs

STEP_VERSION = 1


class GenerationPromptsCounts(Counts):
    """Openings of texts, and questions."""

    num_openings: int
    num_questions: int


class GenerationPromptsOutputs(Outputs[GenerationPromptsCounts, Facts], stage="generation_prompts"):
    """The prompts of a model."""

    prompts = OutputFile(PROMPTS_NAME)  # one row a prompt


class GenerationPrompts(Config):
    """Which prompts, and how many."""

    style: Style
    num_generations: int
    opening_words: int
    chat_prompts: tuple[str, ...]
    num_questions: int
    seed: int

    @classmethod
    def of(cls, config: EvaluationConfig, *, style: Style, is_demo: bool) -> GenerationPrompts:
        """Return the config of the stage: what does not matter to a style is left out."""
        return cls(
            style=style,
            num_generations=config.num_generations,
            opening_words=config.opening_words if style == "text" else 0,
            chat_prompts=config.chat_prompts if style == "chat" else (),
            num_questions=config.num_questions if is_demo else 0,
            seed=config.seed,
        )

    def semantic(self) -> dict[str, Any]:
        """Return the settings, with the version of the demo where its questions are asked."""
        if not self.num_questions:
            return super().semantic()
        version = DEMO_CHATS_VERSION if self.style == "chat" else DEMO_CORPUS_VERSION
        return super().semantic() | {"demo_version": version}


def build(work: Work, config: GenerationPrompts, share: ResourceShare) -> None:  # noqa: ARG001
    """Write prompts.parquet. Input of openings of text: ``documents``, of select_validation."""
    openings = _openings(work, config) if config.num_generations else []
    questions = demo_questions(config.num_questions, seed=config.seed, style=config.style)
    write_prompts(GenerationPromptsOutputs(work.path).prompts, [*openings, *questions])
    GenerationPromptsOutputs.record(
        work,
        GenerationPromptsCounts(num_openings=len(openings), num_questions=len(questions)),
    )


def _openings(work: Work, config: GenerationPrompts) -> list[Prompt]:
    if config.style == "chat":
        return chat_openings(config.chat_prompts, num=config.num_generations)
    return document_openings(
        SelectValidationOutputs.input(work, "documents").documents,
        num=config.num_generations,
        num_words=config.opening_words,
    )


generation_prompts = Stage(
    GenerationPromptsOutputs, version=STEP_VERSION, build=build, scope="corpus"
)
