"""Grammaticality by the program link-parser, of the Debian package link-grammar.

A sentence is accepted iff it has a complete linkage: one without null links, so that every word has
its place. Spelling is not guessed at. Unknown words may be of any class, so made-up words do not
make a sentence wrong. Source: Sleator and Temperley 1991, arXiv cmp-lg/9508004.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from typing import Final

from model.core.errors import ChildError

PROGRAM: Final = "link-parser"
MAX_WORDS: Final = 100  # longer sentences take minutes, and are not accepted
MAX_BYTES: Final = 1900  # link-parser 5.12 neither parses nor repeats a line from 2,046 bytes on
SENTENCE_SECONDS: Final = 10
OPTIONS: Final = ("-batch=1", "-echo=1", "-null=0", "-spell=0", f"-timeout={SENTENCE_SECONDS}")
_REFUSED: Final = "+++++ error"
_COMMANDS: Final = "!%*:"  # first characters of the program's commands


def parser_version() -> str | None:
    """Return name and version of the parser, or None where it is not installed."""
    if shutil.which(PROGRAM) is None:
        return None
    shown = _run(["--version"], "")
    first = shown.partition("\n")[0]
    return first.removeprefix("Version:").strip() or None


def accepted(sentences: Sequence[str]) -> list[bool]:
    """Tell of each sentence whether the parser finds a complete linkage.

    A sentence that the parser cannot read, or not in time, is not accepted.

    Raises:
        ChildError: the program failed, or gave unexpected output.
    """
    lines = [_one_line(sentence) for sentence in sentences]
    asked = [line for line in lines if _can_be_read(line)]
    found = _parse(list(dict.fromkeys(asked)))
    return [found.get(line, False) for line in lines]


def _one_line(sentence: str) -> str:
    """Return a sentence as the program takes it: one line that is not one of its commands."""
    return " ".join(sentence.split()).lstrip(_COMMANDS + " ")


def _can_be_read(line: str) -> bool:
    """Tell whether the program would parse a line: it stops reading one at a NUL character."""
    return (
        0 < len(line.encode(errors="replace")) <= MAX_BYTES
        and len(line.split()) <= MAX_WORDS
        and not any(unicodedata.category(char) == "Cc" for char in line)
    )


def _parse(lines: Sequence[str]) -> dict[str, bool]:
    """Parse each line; the program repeats it, and a following line says if it refuses it."""
    if not lines:
        return {}
    output = _run(["en", *OPTIONS], "\n".join(lines) + "\n").splitlines()
    found: dict[str, bool] = {}
    waiting = iter(lines)
    expected, last = next(waiting, None), None
    for said in output:
        if said == expected:
            found[said] = True
            expected, last = next(waiting, None), said
        elif last is not None and (said.startswith(_REFUSED) or "Timer is expired" in said):
            found[last] = False
    if expected is not None:
        raise ChildError(
            f"{PROGRAM} did not answer every sentence",
            expected=f"{len(lines)} lines, as they were asked",
            found=f"{len(found)}; then not {expected!r}",
            fix="report the sentence; evaluation.parser=off does without the parser",
        )
    return found


def _run(arguments: Sequence[str], text: str) -> str:
    done = subprocess.run(
        [PROGRAM, *arguments],
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode != 0:
        raise ChildError(
            f"{PROGRAM} failed",
            expected="exit code 0",
            found=f"exit code {done.returncode}: {done.stderr.strip()[-400:]}",
            fix="install the packages link-grammar and link-grammar-dictionaries-en, or set "
            "evaluation.parser=off",
        )
    return done.stdout
