"""Talk to a model in the terminal.

    python -m model.serve.terminal [--model <folder of an export>]

Text goes to the model; a line that begins with / is a command, /help lists them. Ctrl-C stops an
answer and not the program, Ctrl-D leaves. When the conversation outgrows the model's context, its
oldest turns are no longer read (they stay in what /save writes).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from model.core.errors import LLMError
from model.inference.decoder import Decoder
from model.inference.generate import stream_text
from model.inference.pretrained import Pretrained, load_pretrained
from model.inference.sampling import MAX_REPETITION_PENALTY, MAX_SEED, MAX_TEMPERATURE, Sampling
from model.serve.model_sources import ModelSource, find_source
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
MOST = {"temperature": MAX_TEMPERATURE, "repetition_penalty": MAX_REPETITION_PENALTY}
ALLOWED = {  # what a setting takes, for people
    "temperature": f"a number from 0 (always the likeliest token) to {MAX_TEMPERATURE}",
    "top_k": "a whole number from 0 (all tokens)",
    "top_p": "a number above 0, up to 1",
    "min_p": "a number from 0 to 1",
    "repetition_penalty": f"a number above 0, up to {MAX_REPETITION_PENALTY} (1 = off)",
    "seed": f"a whole number from 0 to {MAX_SEED}, or any",
}


class ChatTerminal:
    """One conversation.

    Args:
        out: where answers go.
    """

    def __init__(self, pretrained: Pretrained, *, out: TextIO) -> None:
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
                    self._obey(*text[1:].split(maxsplit=1))
                elif text:
                    self.answer(text)
            except LLMError as error:
                self._say(f"error: {error}\n")

    def answer(self, text: str) -> None:
        """Write the model's answer to the next message as it comes; Ctrl-C ends it there.

        Raises:
            ConfigError: the message is longer than the model can read.
        """
        asked = [*self.turns, Message(role="user", content=text)]
        architecture = self._pretrained.model.architecture
        limits = {
            "context_tokens": architecture.context_tokens,
            "answer_tokens": self.max_tokens,
        }
        prompt = fit_conversation(self._with_system(asked), self._pretrained.tokenizer, **limits)
        room = architecture.context_tokens - len(prompt.ids)
        pieces = stream_text(
            self._decoder,
            self._pretrained.tokenizer,
            prompt.ids,
            num_tokens=min(self.max_tokens, room),
            sampling=self.sampling,
            stop_ids=self._pretrained.stop_ids,
        )
        written = ""
        with _interrupts() as is_interrupted, contextlib.closing(pieces):
            for piece in pieces:
                written += piece
                self._say(piece)
                if is_interrupted():
                    self._say(" [stopped]")
                    break
        self._say("\n")
        self.turns = [*asked, Message(role="assistant", content=written)] if written else asked

    def _with_system(self, turns: Sequence[Message]) -> list[Message]:
        head = [Message(role="system", content=self.system)] if self.system else []
        return [*head, *turns]

    def _obey(self, name: str = "help", value: str = "") -> None:
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self._say(HELP),
            "reset": self._reset,
            "save": self._save,
            "system": self._set_system,
            "settings": lambda _: self._show_settings(),
            "max_tokens": lambda text: self._set(name, text),
        }
        change = dict.fromkeys(Sampling.model_fields, lambda text: self._set(name, text))
        command = (commands | change).get(name)
        if command is None:
            self._say(f"there is no /{name}; /help lists the commands\n")
        else:
            command(value)

    def _reset(self, _: str) -> None:
        self.turns = []
        self._say("a new conversation\n")

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
            with path.open("a", encoding="utf-8") as file:  # what stands there may be a whole set
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
            takes = ALLOWED | {"max_tokens": f"a whole number from 1 to {self._most_tokens}"}
            self._say(f"{name} cannot be {text!r}: it takes {takes[name]}\n")
        else:
            self._show_settings()

    @property
    def _most_tokens(self) -> int:
        """The tokens of the longest answer: context is for prompt and answer together."""
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
    if name in MOST and getattr(sampling, name) > MOST[name]:
        raise ValueError(name)
    return sampling


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C noted instead of raised, so that it never cuts a step of the model in two."""
    noted: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


def typed_lines(out: TextIO) -> Iterator[str]:
    """Yield what the user types until Ctrl-D; Ctrl-C only throws the line away."""
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
    """Load the source's model and talk until the user leaves.

    Raises:
        LLMError: the source points nowhere, or its folder cannot be loaded.
    """
    version, folder = source.resolve()
    terminal = ChatTerminal(load_pretrained(folder), out=out)
    out.write(f"{source.name}, version {version}; /help lists the commands\n")
    terminal.run(typed_lines(out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Talk to the model the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Talk to a model in the terminal.")
    parser.add_argument(
        "--model",
        help="folder of an export, or models:/<name>@<alias>; the newest export otherwise",
    )
    options = parser.parse_args(arguments)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text: nobody meant to say them
    try:
        chat(find_source(options.model), out=sys.stdout)
    except LLMError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
