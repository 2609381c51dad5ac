"""Stories of the demo corpus and questions about them, drawn from a random generator.

A story is a plot whose slots are filled once. Its body (the sentences, without title) decides by a
checksum whether it belongs to training or is held out, so a held-out story can never occur in a
training document, whatever the seeds.

Layout of a document: an optional title line, one line a paragraph, and up to six pairs of lines
`Question: ...` and `Answer: ...`. Answers are full sentences that repeat what the story states.
Some documents are exercises instead: a few passages of one to three sentences, each followed by
its questions: a small model learns to look up answers from them, because the answer is near.

Called by `documents` to write shards, and by stage generation_prompts for held-out questions.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal, TypeVar

from model.core.errors import ConfigError
from tasks.corpus.demo.grammar import ANSWER_PREFIX, QUESTION_PREFIX, fill, fillers
from tasks.corpus.demo.templates import Move, Plot, Slot, slots_of, templates

StorySplit = Literal["training", "held_out"]
Drawn = TypeVar("Drawn")

_HELD_OUT_ONE_IN = 16
_MIN_WORDS = 55  # of a body: above the 50 words that quality filters ask for (Gopher, section A1.1)
_TITLE_CHANCE = 0.4
_NUM_QUESTIONS_WEIGHTS = (0.05, 0.05, 0.1, 0.2, 0.2, 0.2, 0.2)  # of asking 0, 1, … 6

_EXERCISE_CHANCE = 0.7
_MIN_EXERCISE_LINES = 5
_PASSAGE_SENTENCES = (1, 1, 2, 2, 3)
_PASSAGE_QUESTIONS = (1, 2)
_PRONOUNS = ("he", "him", "his")
_IT = re.compile(r" it\b")
_WORD = re.compile(r"[\w.{}]+")


@dataclass(frozen=True)
class Question:
    """A question about a story and the one sentence that answers it."""

    question: str
    answer: str
    pattern: str  # what the answer was filled from
    sought: tuple[Slot, ...]  # the slots of `pattern` that the question leaves open

    def __str__(self) -> str:
        return f"{QUESTION_PREFIX} {self.question}\n{ANSWER_PREFIX} {self.answer}"


@dataclass(frozen=True)
class Story:
    """A story and all that may be asked about it."""

    title: str
    paragraphs: tuple[tuple[str, ...], ...]
    facts: Mapping[str, str]  # slot -> words, for every slot of the plot, told or not
    questions: tuple[Question, ...]  # every question that the told sentences answer

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences in order."""
        return tuple(sentence for paragraph in self.paragraphs for sentence in paragraph)

    @property
    def body(self) -> str:
        """The sentences, one line a paragraph."""
        return "\n".join(map(" ".join, self.paragraphs))

    @property
    def split(self) -> StorySplit:
        """Where the story belongs, which its body alone decides."""
        checksum = zlib.crc32(self.body.encode())
        return "training" if checksum % _HELD_OUT_ONE_IN else "held_out"


@dataclass(frozen=True)
class Passage:
    """A few sentences that can be told by themselves, and what may be asked about them."""

    text: str
    facts: Mapping[str, str]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class HeldOutQuestion:
    """A question that training never saw, ready to be put to a model."""

    prompt: str  # story and question, up to and with "Answer:" (no space after it)
    answer: str  # the sentence that a model should write next


def story(rng: Random, *, split: StorySplit = "training") -> Story:
    """Draw a story of the wanted split."""
    while True:
        drawn = _draw_story(rng)
        if drawn.split == split and len(drawn.body.split()) >= _MIN_WORDS:
            return drawn


def passage(rng: Random) -> Passage:
    """Draw a few sentences of one plot, in its order."""
    plot = rng.choice(templates().plots)
    facts = _draw_facts(plot, rng)
    steps = _standing_alone(plot)
    picked = sorted(rng.sample(range(len(steps)), rng.choice(_PASSAGE_SENTENCES)))
    told = [rng.choice(steps[number]) for number in picked]
    return Passage(
        text=" ".join(fill(telling, facts) for telling, _ in told),
        facts=facts,
        questions=tuple(pair for _, move in told for pair in _asked_of(move, facts)),
    )


def draw_questions(questions: Sequence[Question], rng: Random, *, num: int) -> list[Question]:
    """Draw up to `num` questions, no two with one answer."""
    shuffled = rng.sample(questions, len(questions))
    return list({pair.answer: pair for pair in shuffled}.values())[:num]


def document_text(rng: Random) -> str:
    """Draw a training document: a story, often with questions and answers, or an exercise."""
    if rng.random() < _EXERCISE_CHANCE:
        return _exercise_text(rng)
    drawn = story(rng)
    (num,) = rng.choices(range(len(_NUM_QUESTIONS_WEIGHTS)), weights=_NUM_QUESTIONS_WEIGHTS)
    pairs = draw_questions(drawn.questions, rng, num=num)
    return "\n".join([_told(drawn, rng), *map(str, pairs)])


def held_out_questions(num: int, *, seed: int) -> Iterator[HeldOutQuestion]:
    """Draw fresh stories that training never contains, with one question each."""
    return draw_each(_held_out_question, num, what="held out questions", seed=seed)


def draw_each(
    draw: Callable[[Random], Drawn], num: int, *, what: str, seed: int
) -> Iterator[Drawn]:
    """Draw examples, each from a generator that `what`, `seed` and its number alone determine.

    Raises:
        ConfigError: `num` is negative.
    """
    if num < 0:
        raise ConfigError(
            f"The number of examples cannot be negative: {what}.",
            expected="0 or more",
            found=num,
            fix="ask for none or more",
        )
    return (draw(Random(f"{what}/{seed}/{number}")) for number in range(num))  # noqa: S311 - nothing secret is drawn


def is_right_answer(written: str, *, expected: str) -> bool:
    """Tell whether the first line a model wrote after "Answer:" is the expected sentence."""
    return written.strip().split("\n")[0].strip() == expected


def _held_out_question(rng: Random) -> HeldOutQuestion:
    drawn = story(rng, split="held_out")
    pair = rng.choice(drawn.questions)
    prompt = f"{_told(drawn, rng)}\n{QUESTION_PREFIX} {pair.question}\n{ANSWER_PREFIX}"
    return HeldOutQuestion(prompt=prompt, answer=pair.answer)


def _exercise_text(rng: Random) -> str:
    lines: list[str] = []
    while len(lines) < _MIN_EXERCISE_LINES:
        drawn = passage(rng)
        pairs = draw_questions(drawn.questions, rng, num=rng.choice(_PASSAGE_QUESTIONS))
        lines += [drawn.text, *map(str, pairs)]
    return "\n".join(lines)


@cache
def _standing_alone(plot: Plot) -> tuple[tuple[tuple[str, Move], ...], ...]:
    """List, for each step that answers a question, one self-contained telling of each move.

    Of the tellings that need no other sentence, it is the one closest to an answer: a model learns
    copying from these, and looking up paraphrases from the stories.
    """
    steps = (step for paragraph in plot.paragraphs for step in paragraph)
    options = (tuple(filter(None, map(_told_alone, moves))) for moves in steps)
    return tuple(filter(None, options))


def _told_alone(move: Move) -> tuple[str, Move] | None:
    tellings = [telling for telling in move.tell if not _refers_back(telling)]
    if not tellings or not move.ask:
        return None
    answers = [_WORD.findall(answer) for answer in move.ask.values()]
    return max(tellings, key=lambda telling: _num_shared(_WORD.findall(telling), answers)), move


def _num_shared(words: Sequence[str], answers: Sequence[Sequence[str]]) -> int:
    """Count the words that a telling has in common with the closest answer."""
    return max(len(set(words) & set(answer)) for answer in answers)


def _refers_back(telling: str) -> bool:
    """Tell whether a pronoun in it refers to another sentence; "they" may be anyone."""
    named: set[str] = set()
    for slot in slots_of(telling):
        if slot.form in _PRONOUNS and slot.variable not in named:
            return True
        named.add(slot.variable)
    return bool(_IT.search(telling))


def _asked_of(move: Move, facts: Mapping[str, str]) -> Iterator[Question]:
    for question, answer in move.ask.items():
        given = {slot.variable for slot in slots_of(question)}
        sought = tuple(slot for slot in slots_of(answer) if slot.variable not in given)
        yield Question(fill(question, facts), fill(answer, facts), answer, sought)


def _told(drawn: Story, rng: Random) -> str:
    return f"{drawn.title}\n{drawn.body}" if rng.random() < _TITLE_CHANCE else drawn.body


def _draw_story(rng: Random) -> Story:
    plot = rng.choice(templates().plots)
    facts = _draw_facts(plot, rng)
    told: list[Move] = []
    paragraphs: list[tuple[str, ...]] = []
    for paragraph in plot.paragraphs:
        moves = [
            move
            for move in map(rng.choice, paragraph)
            if move.chance == 1.0 or rng.random() < move.chance
        ]
        told += moves
        paragraphs.append(tuple(fill(rng.choice(move.tell), facts) for move in moves))
    return Story(
        title=fill(rng.choice(plot.titles), facts),
        paragraphs=tuple(paragraphs),
        facts=facts,
        questions=tuple(pair for move in told for pair in _asked_of(move, facts)),
    )


def _draw_facts(plot: Plot, rng: Random) -> dict[str, str]:
    """Fill every slot of a plot, slots of a kind with different entries, save repeatable kinds."""
    facts: dict[str, str] = {}
    for kind, variables in _variables_by_kind(plot):
        choices = range(len(fillers(variables[0])))
        draw = rng.choices if kind in templates().repeatable else rng.sample
        for variable, number in zip(variables, draw(choices, k=len(variables)), strict=True):
            facts.update(fillers(variable)[number])
    return facts


@cache
def _variables_by_kind(plot: Plot) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List the variables of a plot, those of one kind together, in the order of first use."""
    groups: dict[str, dict[str, None]] = {}
    for pattern in plot.patterns():
        for slot in slots_of(pattern):
            groups.setdefault(slot.kind, {})[slot.variable] = None
    return tuple((kind, tuple(variables)) for kind, variables in groups.items())
