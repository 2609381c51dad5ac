"""The part of the DAG that measures a model: items, prompts, scores, judgements of its texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.settings.config import ChatModelConfig
from model.config.trained_model import Style
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.stages.generation_prompts import GenerationPrompts, generation_prompts
from tasks.stages.judge_texts import JudgeTexts, judge_texts
from tasks.stages.score_model import ScoreModel, score_model
from tasks.stages.scored_items import listed_items, scored_items


@dataclass(frozen=True)
class Measured:
    """The measurements of one model."""

    scores: Artifact  # of the finished model
    judged: Artifact | None  # of the texts it wrote; ``None`` where it wrote none
    checkpoints: tuple[Artifact, ...]  # scores of kept checkpoints

    @property
    def all(self) -> tuple[Artifact, ...]:
        """The measurements of the finished model."""
        return (self.scores, self.judged) if self.judged else (self.scores,)


def measure_model(
    pipeline: Pipeline,
    name: str,
    config: ChatModelConfig,
    *,
    scoring: ScoreModel,
    inputs: Mapping[str, Artifact],
    documents: Artifact | None,
) -> Measured:
    """Score a trained model and its kept checkpoints, and judge the texts it writes.

    Args:
        name: of the artifacts.
        inputs: ``model``, ``tokenizer`` and ``validation`` of score_model.
        documents: of select_validation, whose openings a model of style text continues.
    """
    items = _items(pipeline, config)
    prompts = _prompts(pipeline, name, config, documents=documents, style=scoring.style)
    asked = dict(inputs) | ({"items": items} if items else {})
    scores = pipeline.add(
        score_model,
        name,
        config=scoring,
        inputs=asked | ({"prompts": prompts} if prompts else {}),
    )
    silent = scoring.score.model_copy(update={"prompts": ()})  # nobody reads texts of checkpoints
    checkpoints = [
        pipeline.add(
            score_model,
            name,
            config=scoring.model_copy(update={"checkpoint": which, "score": silent}),
            inputs=asked,
        )
        for which in config.evaluation.checkpoints
    ]
    judged = prompts and pipeline.add(
        judge_texts,
        name,
        config=JudgeTexts.here(config.evaluation, is_demo=_is_demo(config)),
        inputs={"scores": scores},
    )
    return Measured(scores, judged, tuple(checkpoints))


def _items(pipeline: Pipeline, config: ChatModelConfig) -> Artifact | None:
    if not config.evaluation.sets:
        return None
    listed = listed_items(config.evaluation, store=pipeline.store)
    return pipeline.add(scored_items, "sets", config=listed, inputs={})


def _prompts(
    pipeline: Pipeline,
    name: str,
    config: ChatModelConfig,
    *,
    documents: Artifact | None,
    style: Style,
) -> Artifact | None:
    wanted = GenerationPrompts.of(config.evaluation, style=style, is_demo=_is_demo(config))
    if not wanted.num_generations and not wanted.num_questions:
        return None
    needs_documents = style == "text" and wanted.num_generations
    inputs = {"documents": documents} if needs_documents and documents else {}
    return pipeline.add(generation_prompts, name, config=wanted, inputs=inputs)


def _is_demo(config: ChatModelConfig) -> bool:
    return config.source.kind == "demo"
