"""Tables of prompts and of generated texts. No torch.

    prompts.parquet       kind, messages, text, expected          by tasks.stages.generation_prompts
    generations.parquet   kind, style, prompt, text, expected, num_tokens, finish   by model.eval

A prompt has messages, for a chat model, or text to continue.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from model.config.trained_model import Style
from model.core.config import Config
from model.core.errors import ArtifactError
from model.text.chat_template import Message

PROMPTS_NAME: Final = "prompts.parquet"

Kind = Literal["opening", "question"]

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_PROMPTS: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("messages", pa.list_(_MESSAGE)),
        ("text", pa.string()),
        ("expected", pa.string()),
    ]
)
_GENERATIONS: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("style", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("expected", pa.string()),
        ("num_tokens", pa.int64()),
        ("finish", pa.string()),
    ]
)
Row = TypeVar("Row", bound=Config)


class Prompt(Config):
    """A prompt and, of a question, the expected answer."""

    kind: Kind = Field(description="opening: to continue freely; question: has one right answer")
    messages: tuple[Message, ...] = ()
    text: str = ""
    expected: str | None = None

    @property
    def style(self) -> Style:
        """Whether the prompt is a chat or a text."""
        return "chat" if self.messages else "text"


class Generation(Config):
    """A generated text."""

    kind: Kind
    style: Style
    prompt: str = Field(description="the text, or the last message")
    text: str
    expected: str | None
    num_tokens: int
    finish: Literal["stop", "length"] = Field(description="it ended by itself, or was cut off")


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts in their order."""
    _write(path, prompts, _PROMPTS)


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file."""
    return _read(path, _PROMPTS, Prompt)


def write_generations(path: Path, generations: Iterable[Generation]) -> None:
    """Write generations in their order."""
    _write(path, generations, _GENERATIONS)


def read_generations(path: Path) -> list[Generation]:
    """Return the generations of a file."""
    return _read(path, _GENERATIONS, Generation)


def _write(path: Path, rows: Iterable[Config], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], schema=schema), path)


def _read(path: Path, schema: pa.Schema, kind: type[Row]) -> list[Row]:
    try:
        return [
            kind.model_validate(row) for row in pq.read_table(path).select(schema.names).to_pylist()
        ]
    except (OSError, KeyError, pa.ArrowException, ValidationError) as exc:
        raise ArtifactError(
            "texts of an evaluation cannot be read",
            expected=f"a parquet file with the columns {', '.join(schema.names)}",
            found=exc,
            where=path,
            fix="delete the artifact and let its stage run again",
        ) from exc
