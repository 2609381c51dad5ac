"""Stage score_model: bits per byte on the validation documents, and sample texts."""

from __future__ import annotations

from typing import Any

from model.child_runs import ScoreRun
from model.config import Config, ScoreConfig, Style
from model.store import Work
from tasks.child import Child
from tasks.stage import Share, Stage

STEP_VERSION = 1


class ScoreModel(Config):
    """What is measured and which texts are written.

    Args:
        style: of the model: ``chat`` is scored on what an assistant says, and answers the prompts.
    """

    score: ScoreConfig
    style: Style = "text"

    def semantic(self) -> dict[str, Any]:
        """Return what identifies the scores; those of a base model keep the key they always had."""
        fields = super().semantic()
        if self.style == "text":
            del fields["style"]
        return fields


def build(work: Work, config: ScoreModel, share: Share) -> None:  # noqa: ARG001
    """Run the scoring process to its end."""
    (model,), (tokenizer,), (validation,) = (
        work.derivation.inputs[role] for role in ("model", "tokenizer", "validation")
    )
    run = ScoreRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=f"{model.relative_path}/model",
        tokenizer=tokenizer.relative_path,
        validation=validation.relative_path,
        score=config.score,
        loss_on="mask" if config.style == "chat" else "all",
        style=config.style,
    )
    Child(work, run).run("model.score")


score_model = Stage("score_model", version=STEP_VERSION, build=build, scope="child")
