"""Stage score_model: bits per byte, scores on evaluation sets, and texts for judge_texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from model.config.network import AttentionScope, LossOn
from model.config.outputs import ScoreModelOutputs, TrainModelOutputs
from model.config.runs import Checkpoint, ScoreRun
from model.config.trained_model import ScoreConfig, Style
from model.core.artifact import Artifact
from model.core.config import OMIT_DEFAULT, Config
from model.core.store import Work
from tasks.engine.child import Child
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 2  # 2: items of evaluation sets, and texts to be judged


class ScoreModel(Config):
    """What is measured, and of which weights of a training."""

    score: ScoreConfig
    loss_on: LossOn = "all"
    style: Style = "text"
    checkpoint: Checkpoint = "final"
    attention: Annotated[AttentionScope, OMIT_DEFAULT] = Field(
        default="causal", description="of the training: what a token of a row sees"
    )


def build(work: Work, config: ScoreModel, share: ResourceShare) -> None:  # noqa: ARG001
    """Run the scoring process to its end.

    Inputs: ``model``, ``tokenizer``, ``validation``, and where there are any ``items`` and
    ``prompts``.
    """
    (model,), (tokenizer,), (validation,) = (
        work.derivation.inputs[role] for role in ("model", "tokenizer", "validation")
    )
    run = ScoreRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=work.store.relative(TrainModelOutputs.of(work.store, model).model),
        tokenizer=tokenizer.relative_path,
        validation=validation.relative_path,
        items=_optional(work.derivation.inputs.get("items", ())),
        prompts=_optional(work.derivation.inputs.get("prompts", ())),
        checkpoint=config.checkpoint,
        loss_on=config.loss_on,
        style=config.style,
        attention=config.attention,
        score=config.score,
    )
    Child(work, run).run("model.eval")


def _optional(items: tuple[Artifact, ...]) -> str | None:
    return items[0].relative_path if items else None


score_model = Stage(ScoreModelOutputs, version=STEP_VERSION, build=build, scope="child")
