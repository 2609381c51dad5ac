"""Stage export_model: the trained model as a Hugging Face folder."""

from __future__ import annotations

from model.child_runs import ExportRun
from model.config import Config, ExportConfig
from model.store import Work
from tasks.child import Child
from tasks.stage import Share, Stage

STEP_VERSION = 1


class ExportModel(Config):
    """How weights are stored."""

    export: ExportConfig


def build(work: Work, config: ExportModel, share: Share) -> None:  # noqa: ARG001
    """Run the exporting process to its end."""
    (model,), (tokenizer,) = (work.derivation.inputs[role] for role in ("model", "tokenizer"))
    run = ExportRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=f"{model.relative_path}/model",
        tokenizer=tokenizer.relative_path,
        export=config.export,
    )
    Child(work, run).run("model.export")


export_model = Stage("export_model", version=STEP_VERSION, build=build, scope="child")
