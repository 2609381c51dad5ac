"""Stage harness_scores: EleutherAI's harness scores the exported model on the same items."""

from __future__ import annotations

from importlib import metadata

from model.config.child_runs import HarnessRun
from model.core.config import Config
from model.core.store import Work
from tasks.engine.child import Child
from tasks.engine.stage import Share, Stage
from tasks.stages.export_model import exported_folder

STEP_VERSION = 1
# The harness reads a file here; nothing of it goes to the hub, and libraries need not ask it.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


PACKAGES = ("lm-eval", "transformers")  # what defines the scores, and what computes them


class HarnessScores(Config):
    """Nothing may be chosen: the harness's own definitions hold, and its version is in the key."""

    versions: dict[str, str | None]  # None: not installed here, which the run will say

    @classmethod
    def here(cls) -> HarnessScores:
        """Return the config of the stage with the harness of this machine."""
        return cls(versions={package: _version(package) for package in PACKAGES})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def build(work: Work, config: HarnessScores, share: Share) -> None:  # noqa: ARG001
    """Run the harness to its end.

    Inputs: ``exported``, ``items``, and ``scores`` of ours to compare with.
    """
    (exported,), (items,) = (work.derivation.inputs[role] for role in ("exported", "items"))
    scores = work.derivation.inputs.get("scores", ())
    folder = exported_folder(exported, work.store)
    run = HarnessRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=folder,
        tokenizer=folder,
        items=items.relative_path,
        scores=scores[0].relative_path if scores else None,
    )
    Child(work, run).run("model.eval.harness", environment=ENVIRONMENT)


harness_scores = Stage("harness_scores", version=STEP_VERSION, build=build, scope="child")
