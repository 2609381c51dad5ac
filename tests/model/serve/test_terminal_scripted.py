"""model.serve.terminal with --config: the scripted conversation is that of the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from model.config.trained_model import TalkConfig
from model.core.errors import ConfigError
from model.export.hf_reader import PretrainedModel, load_pretrained
from model.serve.terminal import ChatTerminal, scripted_conversation
from tests.support.small_export import write_export

TALK = TalkConfig(turns=("Hello", "And then?"), answer_tokens=12)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    folder: Path = tmp_path_factory.mktemp("talk") / "tiny"
    write_export(folder)
    return load_pretrained(folder)


def test_scripted_conversation_equals_that_of_the_terminal(pretrained: PretrainedModel) -> None:
    messages = scripted_conversation(pretrained, TALK)
    terminal = ChatTerminal(pretrained, out=io.StringIO())
    terminal.run(iter(["/temperature 0", "/max_tokens 12", *TALK.turns]))
    assert messages == [turn.model_dump() for turn in terminal.turns]
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2
    assert all(turn["content"] for turn in messages)


def test_conversation_is_reproducible_and_depends_on_the_seed(
    pretrained: PretrainedModel,
) -> None:
    warm = TALK.model_copy(update={"temperature": 2.0})
    assert scripted_conversation(pretrained, warm) == scripted_conversation(pretrained, warm)
    assert scripted_conversation(pretrained, warm) != scripted_conversation(
        pretrained, warm.model_copy(update={"seed": 2})
    )


def test_empty_answers_are_kept(pretrained: PretrainedModel) -> None:
    mute = PretrainedModel(
        pretrained.model,
        pretrained.tokenizer,
        frozenset(range(pretrained.tokenizer.vocab_size)),
        pretrained.sampling,
    )
    messages = scripted_conversation(mute, TALK)
    assert [turn["content"] for turn in messages] == ["Hello", "", "And then?", ""]


def test_turn_that_is_too_long_is_an_error(pretrained: PretrainedModel) -> None:
    with pytest.raises(ConfigError, match="longer than the context"):
        scripted_conversation(pretrained, TalkConfig(turns=("word " * 500,)))
