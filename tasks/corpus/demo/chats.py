"""Conversations and preferences of the demo: small talk, stories on request, questions.

Whatever an assistant says is in the language of ``grammar``, which can therefore check a chat
model's texts too. Stories are of the training split; `held_out_conversations` has the others, with
one question each. The wrong answer of a preference is the right one's sentence about another thing,
person or number, one of the same story where it has one.

Called by the stages that read conversations and preferences for the demo, and by the scoring stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from tasks.corpus.demo.grammar import fill, fillers
from tasks.corpus.demo.stories import (
    Passage,
    Question,
    Story,
    draw_each,
    draw_questions,
    passage,
    story,
)
from tasks.corpus.demo.templates import Exchange, slots_of, templates

DEMO_CHATS_VERSION = 3  # raised when the same seed would draw other conversations

Turn = dict[str, str]
"""A message: `role` ("user" or "assistant") and `content`."""

Conversation = tuple[Turn, ...]
Preference = tuple[Conversation, str, str]
"""The conversation so far, the better answer and the worse one."""

_MAX_WORDS = 195  # of a conversation, its special tokens included: within 256 tokens of the demo's
_SPECIALS_WORDS = 7  # that the special tokens of a turn take the place of
_NUM_FOLLOW_UPS_WEIGHTS = (0.1, 0.1, 0.2, 0.2, 0.2, 0.2)  # of asking 0, 1, … 5 more
_PASSAGE_CHANCE = 0.5  # of a preference to be about a passage, not a story
_GREETED_CHANCE = 0.15
_FAREWELL_CHANCE = 0.1


def demo_conversations(num: int, *, seed: int) -> Iterator[Conversation]:
    """Draw conversations for training; each ends with the assistant's words."""
    return draw_each(_conversation, num, what="demo conversations", seed=seed)


def held_out_conversations(num: int, *, seed: int) -> Iterator[Conversation]:
    """Draw stories that training never contains, each with one question and its right answer."""
    return draw_each(_held_out, num, what="demo held out", seed=seed)


def demo_preferences(num: int, *, seed: int) -> Iterator[Preference]:
    """Draw questions about something just read, with a right and a wrong answer to the last one."""
    return draw_each(_preference, num, what="demo preferences", seed=seed)


def held_out_preferences(num: int, *, seed: int) -> Iterator[Preference]:
    """Draw stories that training never contains, each with one question and two answers to it."""
    return draw_each(_held_out_preference, num, what="demo held-out preferences", seed=seed)


# --- a conversation ---------------------------------------------------------------------------


def _conversation(rng: Random) -> Conversation:
    (kind,) = rng.choices(tuple(_KINDS), weights=tuple(_KINDS.values()))
    turns = kind(rng)
    if rng.random() < _GREETED_CHANCE:
        turns = [*_exchange(rng.choice(templates().chats.small_talk), rng), *turns]
    if rng.random() < _FAREWELL_CHANCE:
        turns = [*turns, *_exchange(rng.choice(templates().chats.farewells), rng)]
    return _shortened(turns)


def _small_talk(rng: Random) -> list[Turn]:
    return _exchange(rng.choice((*templates().chats.small_talk, *templates().chats.farewells)), rng)


def _telling(rng: Random) -> list[Turn]:
    """A story asked for, and questions about it."""
    drawn = story(rng)
    request = fill(rng.choice(templates().chats.story_requests), drawn.facts)
    return [*_pair(request, drawn.body), *_follow_ups(drawn.questions, rng, at_least=0)]


def _reading(rng: Random) -> list[Turn]:
    """A story given with a question about it, and more questions."""
    drawn = story(rng)
    return _opened_with(drawn.body, _follow_ups(drawn.questions, rng, at_least=1))


def _short_reading(rng: Random) -> list[Turn]:
    """A few sentences given with a question about them, and more questions."""
    drawn = passage(rng)
    return _opened_with(drawn.text, _follow_ups(drawn.questions, rng, at_least=1))


_KINDS = {_small_talk: 0.06, _telling: 0.2, _reading: 0.44, _short_reading: 0.3}
"""How often each kind is drawn."""


def _exchange(exchange: Exchange, rng: Random) -> list[Turn]:
    facts = {
        slot: words
        for variable in ("hero", "daypart")
        for slot, words in rng.choice(fillers(variable)).items()
    }
    return _pair(*(fill(rng.choice(lines), facts) for lines in (exchange.said, exchange.answers)))


def _follow_ups(questions: Sequence[Question], rng: Random, *, at_least: int) -> list[Turn]:
    (num,) = rng.choices(range(len(_NUM_FOLLOW_UPS_WEIGHTS)), weights=_NUM_FOLLOW_UPS_WEIGHTS)
    drawn = draw_questions(questions, rng, num=num + at_least)
    return [turn for pair in drawn for turn in _pair(pair.question, pair.answer)]


def _opened_with(text: str, turns: list[Turn]) -> list[Turn]:
    first, *others = turns
    return [{**first, "content": f"{text}\n{first['content']}"}, *others]


def _pair(said: str, answered: str) -> list[Turn]:
    return [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]


def _shortened(turns: Sequence[Turn]) -> Conversation:
    """Leave out the last exchanges that would make a conversation too long, never the first."""
    kept = list(turns)
    while len(kept) > 2 and _num_words(kept) > _MAX_WORDS:
        kept = kept[:-2]
    return tuple(kept)


def _num_words(turns: Sequence[Turn]) -> int:
    return sum(len(turn["content"].split()) + _SPECIALS_WORDS for turn in turns)


# --- questions with a known answer ------------------------------------------------------------


def _held_out(rng: Random) -> Conversation:
    drawn = story(rng, split="held_out")
    pair = rng.choice(drawn.questions)
    return tuple(_pair(f"{drawn.body}\n{pair.question}", pair.answer))


def _preference(rng: Random) -> Preference:
    drawn = passage(rng) if rng.random() < _PASSAGE_CHANCE else story(rng)
    return _preference_about(drawn, rng, num_questions=rng.choice((1, 1, 2)))


def _held_out_preference(rng: Random) -> Preference:
    return _preference_about(story(rng, split="held_out"), rng, num_questions=1)


def _preference_about(drawn: Story | Passage, rng: Random, *, num_questions: int) -> Preference:
    text = drawn.text if isinstance(drawn, Passage) else drawn.body
    *earlier, asked = draw_questions(drawn.questions, rng, num=num_questions)
    turns = [turn for pair in earlier for turn in _pair(pair.question, pair.answer)]
    last = {"role": "user", "content": asked.question}
    prompt = tuple(_opened_with(text, [*turns, last]))
    return prompt, asked.answer, _wrong_answer(asked, text=text, facts=drawn.facts, rng=rng)


def _wrong_answer(asked: Question, *, text: str, facts: Mapping[str, str], rng: Random) -> str:
    """Return the right answer's sentence with another entry than the one asked for."""
    named = {facts[slot.variable] for slot in slots_of(asked.pattern)}
    others = [
        (slot.variable, entry)
        for slot in asked.sought
        for entry in fillers(slot.variable)
        if entry[slot.variable] not in named
    ]
    near = [(variable, entry) for variable, entry in others if entry[variable] in text]
    _, entry = rng.choice(near or others)
    return fill(asked.pattern, {**facts, **entry})
