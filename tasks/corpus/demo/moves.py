"""What a story of the demo corpus is made of: moves, plots, and the moves that many plots share.

A plot is titles and paragraphs of moves. A move is one thing that happens: the ways to tell it,
the questions it answers, and how often it is told. A tuple of moves means one of them.

A slot `{hero}` is filled once a story, so that all sentences speak of the same person; `{thing2}`
is a second entry of the kind `thing`, and `{hero.he}` another form of the entry (`demo_words`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Move:
    """One thing that happens.

    Args:
        tellings: the sentence patterns that may tell it; one is drawn.
        ask: question pattern -> answer pattern, for stories that tell this move.
        chance: how often a story of this plot tells it.
    """

    tellings: tuple[str, ...]
    ask: Mapping[str, str] = field(default_factory=dict)
    chance: float = 1.0


Step = Move | tuple[Move, ...]


@dataclass(frozen=True, eq=False)  # compared by identity, so that a plot may key a cache
class Plot:
    """A kind of story: title patterns, and paragraphs of steps in order.

    Every paragraph has a step that is always told.
    """

    titles: tuple[str, ...]
    paragraphs: tuple[tuple[Step, ...], ...]


def tell(*tellings: str, ask: Mapping[str, str] | None = None, chance: float = 1.0) -> Move:
    """Write a move in one breath."""
    return Move(tellings=tellings, ask=ask or {}, chance=chance)


WEATHER = tell(
    "It was {weather.a} day.",
    "The weather was {weather}.",
    "That day, the weather was {weather}.",
    ask={"What was the weather like?": "The weather was {weather}."},
    chance=0.6,
)
HERO_IS_GLAD = tell(
    "{hero} felt {joy}.",
    "{hero} felt very {joy}.",
    "{hero} felt {joy} that day.",
    ask={"How did {hero} feel?": "{hero} felt {joy}."},
    chance=0.7,
)
HE_IS_GLAD = tell(
    "{hero.he} felt {joy}.",
    "{hero.he} felt very {joy}.",
    "This made {hero.him} feel {joy}.",
    "This made {hero} feel very {joy}.",
    ask={"How did {hero} feel?": "{hero} felt {joy}."},
    chance=0.8,
)
HERO_IS_SORRY = tell(
    "{hero} felt {sorrow}.",
    "{hero} felt very {sorrow}.",
    "This made {hero} feel {sorrow}.",
    ask={"How did {hero} feel?": "{hero} felt {sorrow}."},
    chance=0.7,
)
HERO_WAS = tell(
    "{hero} was {trait.a} {hero.child}.",
    "Once there was {trait.a} {hero.child} called {hero}.",
    "There was once {trait.a} {hero.child} whose name was {hero}.",
    ask={"What was {hero} like?": "{hero} was {trait.a} {hero.child}."},
)
MEAL = tell(
    "They ate {meal} and {meal2}.",
    "After that, they ate {meal} and {meal2}.",
    "In the end, they ate {meal} and {meal2} together.",
    ask={"What did they eat?": "They ate {meal} and {meal2}."},
    chance=0.5,
)
