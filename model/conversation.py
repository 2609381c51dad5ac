"""A conversation as ids, and what is left out of it when it outgrows the model's context.

``model.chat`` owns the template. Here its special tokens become their ids and all else is encoded
as data, so that no message can end its own turn by spelling a special token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.chat import Message
from model.errors import ConfigError
from model.tokenizer import IM_END, IM_START, Tokenizer

ANSWER_SHARE = 4  # an answer is left at least this fraction (1/4) of the context, if it asks for it


@dataclass(frozen=True)
class Prompt:
    """What a model is given to read."""

    ids: list[int]
    num_dropped: int  # messages, or tokens of raw text, that were left out


def conversation_ids(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of ``model.chat.render(messages, add_generation_prompt=True)``."""
    start = tokenizer.special_id(IM_START)
    turns = [id for message in messages for id in _turn_ids(message, tokenizer)]  # noqa: A001
    return [tokenizer.end_of_text_id, *turns, start, *tokenizer.encode("assistant\n")]


def _turn_ids(message: Message, tokenizer: Tokenizer) -> list[int]:
    start, end = tokenizer.special_id(IM_START), tokenizer.special_id(IM_END)
    words = tokenizer.encode(f"{message.role}\n{message.content}")
    return [start, *words, end, *tokenizer.encode("\n")]


def fit_conversation(
    messages: Sequence[Message], tokenizer: Tokenizer, *, context_tokens: int, answer_tokens: int
) -> Prompt:
    """Return a conversation's prompt, its oldest turns dropped until it and an answer fit.

    A system message at the start and the last message always stay; no answer is kept without the
    question before it.

    Args:
        answer_tokens: wanted for the answer; at most a quarter of the context is kept free for it.

    Raises:
        ConfigError: the messages that always stay do not fit.
    """
    budget = prompt_budget(context_tokens, answer_tokens=answer_tokens)
    head = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(head) :])
    num_dropped = 0
    while True:
        ids = conversation_ids([*head, *turns], tokenizer)
        if len(ids) <= budget:
            return Prompt(ids, num_dropped)
        num_old = _num_oldest(turns)
        if num_old == 0:
            break
        turns = turns[num_old:]
        num_dropped += num_old
    raise ConfigError(
        "the message is longer than the model can read",
        expected=f"at most {budget} tokens: {context_tokens} of context, the rest for the answer",
        found=f"{len(ids)} tokens in the last message and the system message",
        fix="shorten the message",
    )


def _num_oldest(turns: Sequence[Message]) -> int:
    """Count the messages to drop next: all before the second user's turn, never the last one."""
    later = [index for index, turn in enumerate(turns) if index > 0 and turn.role == "user"]
    return min(later[0] if later else 1, len(turns) - 1)


def fit_text(ids: Sequence[int], *, context_tokens: int, answer_tokens: int) -> Prompt:
    """Return the last window of a raw text that leaves room for what is to be written."""
    num_dropped = max(0, len(ids) - prompt_budget(context_tokens, answer_tokens=answer_tokens))
    return Prompt(list(ids[num_dropped:]), num_dropped)


def prompt_budget(context_tokens: int, *, answer_tokens: int) -> int:
    """Return how many tokens a prompt may have."""
    return context_tokens - min(answer_tokens, context_tokens // ANSWER_SHARE)
