"""Talk with an exported model: one conversation, whose user's turns are given beforehand.

    python -m model.serve.talk --config <work>/config.json

Makes one artifact that holds ``conversation.json``. The answers come the way they do in the
terminal (``model.serve.terminal``): from the files that were exported, turn after turn. The config
is a ``TalkRun``.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from model.config.child_runs import (
    TalkRun,
    make_artifact,
    parse_config_path,
    run_child,
    verify_inputs,
)
from model.config.evaluation import TalkConfig
from model.core.store import Work, write_synced
from model.inference.pretrained import Pretrained, load_pretrained
from model.serve.terminal import ChatTerminal

CONVERSATION_NAME = "conversation.json"


def talk(pretrained: Pretrained, config: TalkConfig) -> list[dict[str, str]]:
    """Return a conversation: the user's turns, and after each what the model wrote.

    Raises:
        ConfigError: a turn is longer than the model can read.
    """
    terminal = ChatTerminal(pretrained, out=io.StringIO())
    chosen = {"temperature": config.temperature, "seed": config.seed}
    terminal.sampling = pretrained.sampling.model_copy(update=chosen)
    terminal.max_tokens = config.answer_tokens
    said: list[dict[str, str]] = []
    for turn in config.turns:
        terminal.answer(turn)
        last = terminal.turns[-1]
        answer = last.content if last.role == "assistant" else ""  # it ended its turn at once
        said += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return said


def make_conversation(config_path: Path) -> None:
    """Make the artifact that a ``TalkRun`` file describes."""
    run = TalkRun.load(config_path)

    def body(work: Work) -> None:
        verify_inputs(run)
        said = talk(load_pretrained(run.path(run.model)), run.talk)
        text = json.dumps(said, ensure_ascii=False, indent=1)
        write_synced(work.path / CONVERSATION_NAME, text.encode())
        work.counts |= {"turns": len(said)}

    make_artifact(run, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Talk as a config file says; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    return run_child(parse_config_path(arguments, description=__doc__), make_conversation)


if __name__ == "__main__":
    sys.exit(main())
