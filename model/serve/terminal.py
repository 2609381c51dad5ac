"""Chat with an exported model: in the terminal, or a scripted conversation.

    python -m model.serve.terminal [--model <folder of an export>]
    python -m model.serve.terminal --config <work>/config.json

In the terminal, a line that begins with / is a command; /help lists them. Ctrl-C stops an answer
and not the program, Ctrl-D leaves. When the conversation outgrows the model's context, its oldest
turns are dropped from the prompt, but not from what /save writes.

With ``--config``, a ``TalkRun``, the user's turns come from the file and the conversation becomes
an artifact that holds ``conversation.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from model.config.outputs import TalkToModelCounts, TalkToModelOutputs
from model.config.runs import TalkRun
from model.config.trained_model import TalkConfig
from model.core.errors import LLMError
from model.core.files import write_synced
from model.core.store import Work
from model.export.hf_reader import PretrainedModel, load_pretrained
from model.inference.decoder import Decoder
from model.inference.generate import stream_text
from model.inference.sampling import MAX_REPETITION_PENALTY, MAX_SEED, MAX_TEMPERATURE, Sampling
from model.runtime.child_process import make_artifact, run_child, verify_inputs
from model.serve.hot_reload import ModelSource, find_source
from model.text.chat_template import Message
from model.text.conversation import fit_conversation

ANSWER_TOKENS = 256
PROMPT = "> "
HELP = """\
/reset             forget the conversation
/save <file>       add it to a file as one line of JSON, in the layout of chat data
/system <text>     the system message; without a text: none
/settings          show the settings
/<setting> <value> change one, such as /temperature 0.7 or /max_tokens 100
/help              this list
/exit, /quit       leave (also Ctrl-D)
"""
LEAVE = ("/exit", "/quit")
MAXIMA = {"temperature": MAX_TEMPERATURE, "repetition_penalty": MAX_REPETITION_PENALTY}
ALLOWED = {  # values of a setting, for messages
    "temperature": f"a number from 0 (always the likeliest token) to {MAX_TEMPERATURE}",
    "top_k": "a whole number from 0 (all tokens)",
    "top_p": "a number above 0, up to 1",
    "min_p": "a number from 0 to 1",
    "repetition_penalty": f"a number above 0, up to {MAX_REPETITION_PENALTY} (1 = off)",
    "seed": f"a whole number from 0 to {MAX_SEED}, or any",
}


class ChatTerminal:
    """One conversation, its answers written to ``out``."""

    def __init__(self, pretrained: PretrainedModel, *, out: TextIO) -> None:
        self._pretrained = pretrained
        self._decoder = Decoder(pretrained.model)
        self._out = out
        self.sampling: Sampling = pretrained.sampling
        self.max_tokens = min(ANSWER_TOKENS, self._most_tokens)
        self.system = ""
        self.turns: list[Message] = []

    def run(self, lines: Iterator[str]) -> None:
        """Answer lines until they end or one is /exit or /quit."""
        for line in lines:
            text = line.strip()
            if text in LEAVE:
                return
            try:
                if text.startswith("/"):
                    self._run_command(*text[1:].split(maxsplit=1))
                elif text:
                    self.answer(text)
            except LLMError as error:
                self._say(f"error: {error}\n")

    def answer(self, text: str) -> None:
        """Stream the model's answer to a message; Ctrl-C stops it.

        Raises:
            ConfigError: the message does not fit the model's context.
        """
        turns = [*self.turns, Message(role="user", content=text)]
        context_tokens = self._pretrained.model.architecture.context_tokens
        prompt = fit_conversation(
            self._with_system(turns),
            self._pretrained.tokenizer,
            context_tokens=context_tokens,
            answer_tokens=self.max_tokens,
        )
        pieces = stream_text(
            self._decoder,
            self._pretrained.tokenizer,
            prompt.ids,
            num_tokens=min(self.max_tokens, context_tokens - len(prompt.ids)),
            sampling=self.sampling,
            stop_ids=self._pretrained.stop_ids,
        )
        answer = ""
        with _interrupts() as is_interrupted, contextlib.closing(pieces):
            for piece in pieces:
                answer += piece
                self._say(piece)
                if is_interrupted():
                    self._say(" [stopped]")
                    break
        self._say("\n")
        self.turns = [*turns, Message(role="assistant", content=answer)] if answer else turns

    def _with_system(self, turns: Sequence[Message]) -> list[Message]:
        head = [Message(role="system", content=self.system)] if self.system else []
        return [*head, *turns]

    def _run_command(self, name: str = "help", value: str = "") -> None:
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._say(HELP),
            "reset": self._reset,
            "save": self._save,
            "system": self._set_system,
            "settings": lambda _: self._show_settings(),
            "max_tokens": lambda text: self._set(name, text),
        }
        setters = dict.fromkeys(Sampling.model_fields, lambda text: self._set(name, text))
        command = (commands | setters).get(name)
        if command is None:
            self._say(f"there is no /{name}; /help lists the commands\n")
        else:
            command(value)

    def _reset(self, _: str) -> None:
        self.turns = []
        self._say("conversation reset\n")

    def _set_system(self, text: str) -> None:
        self.system = text
        self._say("system message set\n" if text else "no system message\n")

    def _save(self, name: str) -> None:
        if not name:
            self._say("name a file: /save conversation.jsonl\n")
            return
        turns = [turn.model_dump() for turn in self._with_system(self.turns)]
        path = Path(name).expanduser()
        try:
            with path.open("a", encoding="utf-8") as file:  # the file may hold a whole set
                file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            self._say(f"error: {error}\n")
        else:
            self._say(f"{len(turns)} messages added to {path}\n")

    def _set(self, name: str, text: str) -> None:
        try:
            if name == "max_tokens":
                self.max_tokens = self._answer_tokens(text)
            else:
                values = self.sampling.model_dump() | {name: None if text == "any" else text}
                self.sampling = _within_limits(Sampling.model_validate(values), name)
        except ValueError:  # pydantic's is one
            allowed = ALLOWED | {"max_tokens": f"a whole number from 1 to {self._most_tokens}"}
            self._say(f"{name} cannot be {text!r}: it takes {allowed[name]}\n")
        else:
            self._show_settings()

    @property
    def _most_tokens(self) -> int:
        """Tokens of the longest answer: prompt and answer share the context."""
        return self._pretrained.model.architecture.context_tokens - 1

    def _answer_tokens(self, text: str) -> int:
        if not 1 <= (number := int(text)) <= self._most_tokens:
            raise ValueError(number)
        return number

    def _show_settings(self) -> None:
        settings = self.sampling.model_dump() | {"max_tokens": self.max_tokens}
        shown = ((name, "any" if value is None else value) for name, value in settings.items())
        self._say(", ".join(f"{name} {value}" for name, value in shown) + "\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _within_limits(sampling: Sampling, name: str) -> Sampling:
    if name in MAXIMA and getattr(sampling, name) > MAXIMA[name]:
        raise ValueError(name)
    return sampling


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C instead of raising it, so that it never interrupts a step of the model."""
    signals: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        signals.append(number)

    before = signal.signal(signal.SIGINT, record)
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGINT, before)


def typed_lines(out: TextIO) -> Iterator[str]:
    """Yield typed lines until Ctrl-D; Ctrl-C discards the line."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # gives input() a history and its editing keys
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            out.write("\n(Ctrl-D leaves)\n")
        except EOFError:
            out.write("\n")
            return


def chat(source: ModelSource, *, out: TextIO) -> None:
    """Load the source's model and chat until the user leaves.

    Raises:
        LLMError: the source cannot be resolved, or its folder cannot be loaded.
    """
    version, folder = source.resolve()
    terminal = ChatTerminal(load_pretrained(folder), out=out)
    out.write(f"{source.name}, version {version}; /help lists the commands\n")
    terminal.run(typed_lines(out))


def scripted_conversation(pretrained: PretrainedModel, config: TalkConfig) -> list[dict[str, str]]:
    """Return the user's turns, each followed by the model's answer."""
    terminal = ChatTerminal(pretrained, out=io.StringIO())
    chosen = {"temperature": config.temperature, "seed": config.seed}
    terminal.sampling = pretrained.sampling.model_copy(update=chosen)
    terminal.max_tokens = config.answer_tokens
    messages: list[dict[str, str]] = []
    for turn in config.turns:
        terminal.answer(turn)
        last = terminal.turns[-1]
        answer = last.content if last.role == "assistant" else ""  # it ended its turn at once
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return messages


def make_conversation(config_path: Path) -> None:
    """Make the artifact that a ``TalkRun`` file describes."""
    run = TalkRun.load(config_path)

    def body(work: Work) -> None:
        verify_inputs(run)
        messages = scripted_conversation(load_pretrained(run.path(run.model)), run.talk)
        text = json.dumps(messages, ensure_ascii=False, indent=1)
        write_synced(TalkToModelOutputs(work.path).conversation, text.encode())
        TalkToModelOutputs.record(work, TalkToModelCounts(turns=len(messages)))

    make_artifact(run, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Chat with the model the command line names; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        help="folder of an export, or models:/<name>@<alias>; the newest export otherwise",
    )
    source.add_argument("--config", type=Path, help="a TalkRun: make its artifact and end")
    options = parser.parse_args(arguments)
    if options.config:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        return run_child(options.config, make_conversation)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are not UTF-8
    try:
        chat(find_source(options.model), out=sys.stdout)
    except LLMError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
