"""model.serve.talk: a conversation with the exported files, as the terminal has it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from model.config.evaluation import TalkConfig
from model.core.errors import ConfigError
from model.inference.pretrained import Pretrained, load_pretrained
from model.serve.talk import talk
from model.serve.terminal import ChatTerminal
from tests.support.small_export import write_export

TALK = TalkConfig(turns=("Hello", "And then?"), answer_tokens=12)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    folder: Path = tmp_path_factory.mktemp("talk") / "tiny"
    write_export(folder)
    return load_pretrained(folder)


def test_conversation_is_that_of_the_terminal(pretrained: Pretrained) -> None:
    said = talk(pretrained, TALK)
    terminal = ChatTerminal(pretrained, out=io.StringIO())
    terminal.run(iter(["/temperature 0", "/max_tokens 12", *TALK.turns]))
    assert said == [turn.model_dump() for turn in terminal.turns]
    assert [turn["role"] for turn in said] == ["user", "assistant"] * 2
    assert all(turn["content"] for turn in said)


def test_conversation_is_the_same_again_and_another_with_another_seed(
    pretrained: Pretrained,
) -> None:
    warm = TALK.model_copy(update={"temperature": 2.0})
    assert talk(pretrained, warm) == talk(pretrained, warm)
    assert talk(pretrained, warm) != talk(pretrained, warm.model_copy(update={"seed": 2}))


def test_model_that_says_nothing_is_shown_to(pretrained: Pretrained) -> None:
    mute = Pretrained(
        pretrained.model,
        pretrained.tokenizer,
        frozenset(range(pretrained.tokenizer.vocab_size)),
        pretrained.sampling,
    )
    said = talk(mute, TALK)
    assert [turn["content"] for turn in said] == ["Hello", "", "And then?", ""]


def test_turn_that_is_too_long_is_an_error(pretrained: Pretrained) -> None:
    with pytest.raises(ConfigError, match="longer than the model can read"):
        talk(pretrained, TalkConfig(turns=("word " * 500,)))
