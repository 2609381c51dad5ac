"""Encoding of conversations: prompts, SFT examples, and fitting into the context.

``model.text.chat_template`` owns the template. Here its special tokens become ids and all other
text is encoded as data, so that no message can end its turn by spelling a special token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.core.errors import ConfigError
from model.text.chat_template import Message
from model.text.tokenizer import IM_END, IM_START, Tokenizer

_ANSWER_HEADER = "assistant\n"
ANSWER_SHARE = 4  # at most 1/4 of the context is reserved for an answer


@dataclass(frozen=True)
class FittedPrompt:
    """The ids of a prompt that fits into the context."""

    ids: list[int]
    num_dropped: int  # messages, or tokens of raw text, that were left out


def conversation_ids(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of ``chat_template.render(messages, add_generation_prompt=True)``."""
    start, end = tokenizer.special_id(IM_START), tokenizer.special_id(IM_END)
    ids = [tokenizer.end_of_text_id]
    for message in messages:
        ids += [start, *tokenizer.encode(turn_text(message)), end, *tokenizer.encode("\n")]
    return [*ids, start, *tokenizer.encode(_ANSWER_HEADER)]


def turn_text(message: Message) -> str:
    """Return the text between the special tokens of a turn, which is encoded as one string."""
    return f"{message.role}\n{message.content}"


@dataclass(frozen=True, eq=False)
class SFTExample:
    """An encoded conversation with its loss mask."""

    ids: npt.NDArray[np.uint16]  # of ``render(messages, add_generation_prompt=False)``
    mask: npt.NDArray[np.bool_]  # true on the assistant's words and the end of its turn
    answer_ends: tuple[int, ...]  # number of ids up to the end of each of the assistant's turns

    def of_last_answer(self) -> SFTExample:
        """Return the same conversation with only the last answer in the loss mask."""
        mask = self.mask.copy()
        mask[: max(self.answer_ends[:-1], default=0)] = False
        return SFTExample(self.ids, mask, self.answer_ends)

    def fitted(self, num_ids: int) -> SFTExample | None:
        """Return the longest prefix of turns, ending with the assistant's, that fits, if any."""
        fitting = [end for end in self.answer_ends if end <= num_ids]
        if not fitting:
            return None
        end = fitting[-1]
        return SFTExample(self.ids[:end], self.mask[:end], tuple(fitting))


class ChatEncoder:
    """Encode conversations as SFT examples, with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._first = [tokenizer.end_of_text_id]
        self._start = [tokenizer.special_id(IM_START)]
        self._after = [tokenizer.special_id(IM_END), *tokenizer.encode("\n")]
        self._header = tokenizer.encode(_ANSWER_HEADER)
        self._token_bytes = tokenizer.token_bytes

    def encode(self, messages: Sequence[Message], words: Sequence[npt.ArrayLike]) -> SFTExample:
        """Return the SFT example of a conversation, given the ids of each ``turn_text``."""
        pieces: list[npt.ArrayLike] = [self._first]
        spans: list[tuple[int, int]] = []
        answer_ends: list[int] = []
        num_ids = 1
        for message, item in zip(messages, words, strict=True):
            own = np.asarray(item, dtype=np.uint16)
            pieces += [self._start, own, self._after]
            begin, num_ids = num_ids + 1, num_ids + 1 + len(own) + len(self._after)
            if message.role == "assistant":
                end_of_turn = begin + len(own)
                spans.append((begin + self._num_header_ids(own), end_of_turn + 1))
                answer_ends.append(num_ids)
        mask = np.zeros(num_ids, dtype=np.bool_)
        for begin, end in spans:
            mask[begin:end] = True
        ids = np.concatenate([np.asarray(piece, dtype=np.uint16) for piece in pieces])
        return SFTExample(ids, mask, tuple(answer_ends))

    def _num_header_ids(self, words: npt.NDArray[np.uint16]) -> int:
        """Count the ids before an answer; an id with its first byte belongs to the answer."""
        if words[: len(self._header)].tolist() == self._header:
            return len(self._header)
        position = 0
        for index, token in enumerate(words.tolist()):
            position += len(self._token_bytes[token])
            if position > len(_ANSWER_HEADER):
                return index
        return len(words)


def fit_conversation(
    messages: Sequence[Message], tokenizer: Tokenizer, *, context_tokens: int, answer_tokens: int
) -> FittedPrompt:
    """Return a conversation's prompt without its oldest turns, so that it and an answer fit.

    A leading system message and the last message always stay; no answer stays without its question.

    Args:
        answer_tokens: requested for the answer; at most a quarter of the context is reserved.

    Raises:
        ConfigError: the system message and the last message do not fit.
    """
    budget = prompt_budget(context_tokens, answer_tokens=answer_tokens)
    head = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(head) :])
    num_dropped = 0
    while True:
        ids = conversation_ids([*head, *turns], tokenizer)
        if len(ids) <= budget:
            return FittedPrompt(ids, num_dropped)
        num_old = num_oldest(turns)
        if num_old == 0:
            break
        turns = turns[num_old:]
        num_dropped += num_old
    raise ConfigError(
        "the message is longer than the context",
        expected=f"at most {budget} tokens: {context_tokens} of context, the rest for the answer",
        found=f"{len(ids)} tokens in the last message and the system message",
        fix="shorten the message",
    )


def num_oldest(turns: Sequence[Message]) -> int:
    """Count the messages to drop next: all before the second user turn, never the last one."""
    later = [index for index, turn in enumerate(turns) if index > 0 and turn.role == "user"]
    return min(later[0] if later else 1, len(turns) - 1)


def fit_text(ids: Sequence[int], *, context_tokens: int, answer_tokens: int) -> FittedPrompt:
    """Return the last window of a raw text that leaves room for the continuation."""
    num_dropped = max(0, len(ids) - prompt_budget(context_tokens, answer_tokens=answer_tokens))
    return FittedPrompt(list(ids[num_dropped:]), num_dropped)


def prompt_budget(context_tokens: int, *, answer_tokens: int) -> int:
    """Return the largest number of tokens of a prompt."""
    return context_tokens - min(answer_tokens, context_tokens // ANSWER_SHARE)
