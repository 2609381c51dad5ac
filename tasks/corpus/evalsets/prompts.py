"""Prompts for generated texts: openings, and questions with one answer.

Openings are the first words of held-out documents, or, for a model that chats, messages from the
settings. Questions are the demo corpus's own, about stories that training never contains; elsewhere
there are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from model.config.trained_model import Style
from model.core.errors import ConfigError
from model.data.prompts import Prompt
from model.text.chat_template import read_messages
from tasks.corpus.demo.chats import held_out_conversations
from tasks.corpus.demo.stories import held_out_questions


def document_openings(documents: Path, *, num: int, num_words: int) -> list[Prompt]:
    """Return the first words of documents, evenly spread over a file.

    Args:
        documents: a parquet file with a column ``text``.
        num: at most this many; fewer where the file has fewer.
        num_words: of each; the white space between them is kept.
    """
    opening = re.compile(rf"(?:\S+\s+){{0,{num_words - 1}}}\S+")
    texts = pq.read_table(documents, columns=["text"])["text"].to_pylist()
    found = [match[0] for match in map(opening.match, map(str.lstrip, texts)) if match]
    num = min(num, len(found))
    chosen = [found[index * len(found) // num] for index in range(num)]
    return [Prompt(kind="opening", text=text) for text in chosen]


def chat_openings(messages: Sequence[str], *, num: int) -> list[Prompt]:
    """Return a user's first messages in rotation; each is answered with another seed."""
    if num and not messages:
        raise ConfigError(
            "a chat model has nothing to answer",
            expected="at least one message",
            found="none",
            where="evaluation.chat_prompts",
            fix="name some, or set evaluation.num_generations to 0",
        )
    chosen = (messages[index % len(messages)] for index in range(num))
    return [_chat("opening", [{"role": "user", "content": message}]) for message in chosen]


def demo_questions(num: int, *, seed: int, style: Style) -> list[Prompt]:
    """Return questions about held-out stories of the demo, each with its right answer."""
    if style == "text":
        return [
            Prompt(kind="question", text=asked.prompt, expected=asked.answer)
            for asked in held_out_questions(num, seed=seed)
        ]
    return [
        _chat("question", turns, expected=right["content"])
        for *turns, right in held_out_conversations(num, seed=seed)
    ]


def _chat(kind: str, turns: Sequence[dict[str, str]], *, expected: str | None = None) -> Prompt:
    messages = read_messages(turns, where="a prompt of the evaluation")
    return Prompt.model_validate({"kind": kind, "messages": messages, "expected": expected})
