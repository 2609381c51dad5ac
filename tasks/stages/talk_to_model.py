"""Stage talk_to_model: a short conversation with a finished chat model, from its exported files."""

from __future__ import annotations

import json
from pathlib import Path

from model.config.child_runs import TalkRun
from model.config.evaluation import TalkConfig
from model.core.config import Config
from model.core.store import Work
from tasks.engine.child import Child
from tasks.engine.stage import Share, Stage
from tasks.stages.export_model import exported_folder

STEP_VERSION = 1
CONVERSATION_FILE = "conversation.json"


class TalkToModel(Config):
    """What the model is asked."""

    talk: TalkConfig


def build(work: Work, config: TalkToModel, share: Share) -> None:  # noqa: ARG001
    """Run the chat process to its end."""
    (exported,) = work.derivation.inputs["exported"]
    folder = exported_folder(exported, work.store)
    run = TalkRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=folder,
        tokenizer=folder,
        talk=config.talk,
    )
    Child(work, run).run("model.serve.terminal")


def read_conversation(directory: Path) -> tuple[dict[str, str], ...]:
    """Return the turns of a talk_to_model artifact: role and content, which may be empty."""
    found = json.loads((directory / CONVERSATION_FILE).read_text(encoding="utf-8"))
    return tuple(found)


talk_to_model = Stage("talk_to_model", version=STEP_VERSION, build=build, scope="child")
