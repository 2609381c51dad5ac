"""Stage talk_to_model: a short conversation with an exported chat model."""

from __future__ import annotations

import json

from model.config.outputs import ExportModelOutputs, TalkToModelOutputs
from model.config.runs import TalkRun
from model.config.trained_model import TalkConfig
from model.core.config import Config
from model.core.store import Work
from tasks.engine.child import Child
from tasks.engine.stage import ResourceShare, Stage

STEP_VERSION = 1


class TalkToModel(Config):
    """The turns of the user."""

    talk: TalkConfig


def build(work: Work, config: TalkToModel, share: ResourceShare) -> None:  # noqa: ARG001
    """Run the chat process to its end."""
    (exported,) = work.derivation.inputs["exported"]
    folder = work.store.relative(ExportModelOutputs.of(work.store, exported).folder)
    run = TalkRun(
        data_root=str(work.store.root),
        derivation=work.derivation,
        model=folder,
        tokenizer=folder,
        talk=config.talk,
    )
    Child(work, run).run("model.serve.terminal")


def read_conversation(outputs: TalkToModelOutputs) -> tuple[dict[str, str], ...]:
    """Return the turns of a conversation: role and content, which may be empty."""
    return tuple(json.loads(outputs.conversation.read_text(encoding="utf-8")))


talk_to_model = Stage(TalkToModelOutputs, version=STEP_VERSION, build=build, scope="child")
