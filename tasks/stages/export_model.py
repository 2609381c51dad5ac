"""Stage export_model: a trained model as the folder, and GGUF file, for other runtimes."""

from __future__ import annotations

from model.config.outputs import ExportModelOutputs, TrainModelOutputs
from model.config.runs import ExportRun
from model.config.trained_model import ExportConfig
from model.core.config import Config
from model.core.store import Work
from tasks.engine.child import Child
from tasks.engine.stage import ResourceShare, Stage
from tasks.reporting.model_card import Lineage, model_card

STEP_VERSION = 1


class ExportModel(Config):
    """How weights are stored, and the default sampling settings of runtimes."""

    export: ExportConfig


def build(work: Work, config: ExportModel, share: ResourceShare) -> None:  # noqa: ARG001
    """Run the exporting process to its end.

    Inputs: ``model``, ``tokenizer``, and for the card ``scores`` of the model, any number of them.
    """
    (model,), (tokenizer,) = (work.derivation.inputs[role] for role in ("model", "tokenizer"))
    lineage = Lineage.of(work.store.read_manifest(model), work.store)
    scores = [work.store.read_manifest(item) for item in work.derivation.inputs.get("scores", ())]
    run = ExportRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=work.store.relative(TrainModelOutputs.of(work.store, model).model),
        tokenizer=tokenizer.relative_path,
        export=config.export,
        card=model_card(lineage, scores=scores, sampling=config.export.sampling),
    )
    Child(work, run).run("model.export")


export_model = Stage(ExportModelOutputs, version=STEP_VERSION, build=build, scope="child")
