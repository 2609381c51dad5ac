"""model.serve.terminal: conversation, commands, and Ctrl-C in a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from model.export.hf_reader import PretrainedModel, load_pretrained
from model.inference.generate import generate
from model.inference.sampling import Sampling
from model.serve.terminal import ALLOWED, ChatTerminal, main
from model.text.conversation import conversation_ids
from tests.support.small_export import write_export


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("chat") / "tiny"
    write_export(directory)
    return directory


@pytest.fixture(scope="module")
def pretrained(folder) -> PretrainedModel:
    return load_pretrained(folder)


def _talk(pretrained: PretrainedModel, *lines: str) -> tuple[ChatTerminal, str]:
    out = io.StringIO()
    terminal = ChatTerminal(pretrained, out=out)
    greedy = ("/temperature 0", "/repetition_penalty 1", "/max_tokens 12")
    terminal.run(iter([*greedy, *lines]))
    return terminal, out.getvalue()


def test_answers_equal_generate_and_turns_are_kept(pretrained):
    terminal, shown = _talk(pretrained, "Hello", "", "And then?")
    tokenizer = pretrained.tokenizer
    assert [turn.role for turn in terminal.turns] == ["user", "assistant"] * 2
    for last in (1, 3):
        ids = conversation_ids(terminal.turns[:last], tokenizer)
        output_ids = generate(pretrained.model, ids, num_tokens=12, temperature=0, top_k=0, seed=1)
        assert terminal.turns[last].content == tokenizer.decode(output_ids)
        assert terminal.turns[last].content in shown


def test_reset_and_system_message(pretrained):
    terminal, _ = _talk(pretrained, "/system Be brief.", "Hello", "/reset")
    assert terminal.turns == []
    assert terminal.system == "Be brief."


def test_save_writes_the_layout_of_chat_data(pretrained, tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("what was there\n")
    terminal, shown = _talk(pretrained, "/system Be brief.", "Hello", f"/save {path}", "/save")
    before, line = path.read_text().splitlines()
    assert before == "what was there"
    messages = json.loads(line)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[2]["content"] == terminal.turns[1].content
    assert f"3 messages added to {path}" in shown
    assert "name a file" in shown
    assert "error:" in _talk(pretrained, f"/save {tmp_path}/no/such/folder")[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/temperature 0.3", "temperature 0.3"),
        ("/top_k 5", "top_k 5"),
        ("/seed 4", "seed 4"),
        ("/seed any", "seed any"),
        ("/settings", "max_tokens 12"),
        ("/temperature hot", "temperature cannot be 'hot': it takes a number from 0"),
        ("/temperature 5", "temperature cannot be '5': it takes a number from 0"),
        ("/temperature inf", "temperature cannot be 'inf': it takes a number from 0"),
        ("/temperature nan", "temperature cannot be 'nan': it takes a number from 0"),
        ("/temperature", "temperature cannot be '': it takes a number from 0"),
        ("/top_k any", "top_k cannot be 'any': it takes a whole number from 0"),
        ("/top_p 7", "top_p cannot be '7': it takes a number above 0, up to 1"),
        ("/min_p 2", "min_p cannot be '2': it takes a number from 0 to 1"),
        ("/repetition_penalty 99", "repetition_penalty cannot be '99': it takes"),
        ("/seed -1", "seed cannot be '-1': it takes a whole number from 0 to"),
        ("/max_tokens few", "max_tokens cannot be 'few': it takes a whole number from 1 to 255"),
        ("/max_tokens -1", "max_tokens cannot be '-1': it takes a whole number from 1 to 255"),
        ("/max_tokens 256", "max_tokens cannot be '256': it takes a whole number from 1 to 255"),
        ("/max_tokens 255", "max_tokens 255"),
        ("/help", "/exit, /quit"),
        ("/nonsense", "there is no /nonsense"),
        ("/help", "/save <file>"),
        ("/", "/save <file>"),
        ("word " * 300, "longer than the context"),
    ],
)
def test_command_answers_and_the_conversation_continues(pretrained, line, words):
    terminal, shown = _talk(pretrained, line, "Hello")
    assert words in shown
    assert len(terminal.turns) == 2


@pytest.mark.parametrize("line", ["/quit", "/exit", " /exit "])
def test_quit_and_exit_end_before_the_next_line(pretrained, line):
    terminal, shown = _talk(pretrained, line, "Hello")
    assert terminal.turns == []
    assert "there is no" not in shown


def test_every_setting_has_its_allowed_values():
    assert set(ALLOWED) == set(Sampling.model_fields)


def test_main_without_a_model_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path))
    assert main([]) == 2
    assert "make demo" in capsys.readouterr().err


def wait_until_idle(process: subprocess.Popen[bytes]) -> None:
    """Wait until readline waits: a signal from just before is noticed after the next line only."""
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a waiting process counts as running")
@pytest.mark.usefixtures("interruptible")
def test_interrupt_stops_the_answer_and_not_the_program(tmp_path):
    folder = tmp_path / "tiny"
    write_export(folder, context_tokens=8192)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "model.serve.terminal", "--model", str(folder)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = ""

    def until(words: str) -> None:
        nonlocal shown
        while words not in shown:
            shown += os.read(ours, 4096).decode(errors="replace")
        shown = shown.partition(words)[2]

    try:
        until("> ")
        for line in ("/temperature 0", "/repetition_penalty 1", "/max_tokens 8000"):
            os.write(ours, f"{line}\n".encode())
            until("max_tokens")
            until("> ")
        os.write(ours, b"Hello\n")
        until("Hello\r\n")
        shown += os.read(ours, 4096).decode(errors="replace")  # the answer has begun
        process.send_signal(signal.SIGINT)
        until("[stopped]")
        until("> ")
        wait_until_idle(process)
        process.send_signal(signal.SIGINT)
        until("(Ctrl-D leaves)")
        os.write(ours, b"/max_tokens 3\n")
        until("max_tokens 3")
        os.write(ours, b"/quit\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
