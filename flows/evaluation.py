"""How a model is measured: the stages from prompts and items to judgements, for every flow.

pretrain and finetune wire the same stages; they differ in what the model is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.settings.presets import ChatModelConfig
from model.config.evaluation import ScoreConfig, Style
from model.config.network import AttentionScope, LossOn
from model.core.artifact import Artifact
from tasks.engine.pipeline import Pipeline
from tasks.stages.generation_prompts import GenerationPrompts, generation_prompts
from tasks.stages.harness_scores import HarnessScores, harness_scores
from tasks.stages.judge_texts import JudgeTexts, judge_texts
from tasks.stages.score_model import ScoreModel, score_model
from tasks.stages.scored_items import listed_items, scored_items


@dataclass(frozen=True)
class Measured:
    """What is measured of one model.

    Args:
        scores: of the finished model.
        judged: of the texts it wrote; ``None`` where it wrote none.
        checkpoints: scores of kept checkpoints.
        items: what evaluation sets ask; ``None`` where there are none.
    """

    scores: Artifact
    judged: Artifact | None
    checkpoints: tuple[Artifact, ...]
    items: Artifact | None

    @property
    def all(self) -> tuple[Artifact, ...]:
        """What tells of the finished model."""
        return (self.scores, self.judged) if self.judged else (self.scores,)


def measure_model(
    pipeline: Pipeline,
    name: str,
    config: ChatModelConfig,
    *,
    model: Artifact,
    tokenizer: Artifact,
    validation: Artifact,
    documents: Artifact | None = None,
    score: ScoreConfig | None = None,
    style: Style = "text",
    loss_on: LossOn = "all",
    attention: AttentionScope = "causal",
) -> Measured:
    """Score a trained model, and judge what it writes.

    Args:
        name: of the artifacts.
        documents: of select_validation, whose openings a model of style text goes on from.
        score: unset = ``config.score``.
        style: text goes on with documents, chat answers messages.
        loss_on: which targets of the validation rows count.
        attention: what a token of them sees: what it saw in training.
    """
    inputs = {"model": model, "tokenizer": tokenizer, "validation": validation}
    items = _items(pipeline, config)
    prompts = _prompts(pipeline, name, config, documents=documents, style=style)
    asked = inputs | ({"items": items} if items else {})
    asking = ScoreModel(
        score=score or config.score, loss_on=loss_on, style=style, attention=attention
    )
    scores = pipeline.add(
        score_model,
        name,
        config=asking,
        inputs=asked | ({"prompts": prompts} if prompts else {}),
    )
    unread = asking.score.model_copy(update={"prompts": ()})  # of checkpoints nobody reads texts
    checkpoints = [
        pipeline.add(
            score_model,
            name,
            config=asking.model_copy(update={"checkpoint": which, "score": unread}),
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
    return Measured(scores, judged, tuple(checkpoints), items)


def check_with_harness(
    pipeline: Pipeline,
    name: str,
    config: ChatModelConfig,
    *,
    exported: Artifact,
    measured: Measured,
) -> Artifact | None:
    """Have the harness score the exported model on the same items, if that is asked for."""
    if config.evaluation.harness == "off" or not measured.items:
        return None
    return pipeline.add(
        harness_scores,
        name,
        config=HarnessScores.here(),
        inputs={"exported": exported, "items": measured.items, "scores": measured.scores},
    )


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
