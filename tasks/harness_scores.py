"""Stage harness_scores: EleutherAI's harness scores the exported model on the same items."""

from __future__ import annotations

from model.child_runs import HarnessRun
from model.config import Config
from model.store import Work
from tasks.child import Child
from tasks.stage import Share, Stage

STEP_VERSION = 1
# The harness reads a file here; nothing of it goes to the hub, and libraries need not ask it.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class HarnessScores(Config):
    """Nothing may be chosen: the harness's own definitions hold."""


def build(work: Work, config: HarnessScores, share: Share) -> None:  # noqa: ARG001
    """Run the harness to its end.

    Inputs: ``exported``, ``items``, and ``scores`` of ours to compare with.
    """
    (exported,), (items,) = (work.derivation.inputs[role] for role in ("exported", "items"))
    scores = work.derivation.inputs.get("scores", ())
    folder = f"{exported.relative_path}/{work.store.read_manifest(exported).facts['directory']}"
    run = HarnessRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=folder,
        tokenizer=folder,
        items=items.relative_path,
        scores=scores[0].relative_path if scores else None,
    )
    Child(work, run).run("model.harness", environment=ENVIRONMENT)


harness_scores = Stage("harness_scores", version=STEP_VERSION, build=build, scope="child")
