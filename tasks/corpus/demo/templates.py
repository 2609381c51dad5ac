"""The sentence templates and words of the demo corpus, read from TOML files beside this module.

``stories.toml`` has plots, ``chats.toml`` exchanges, ``words.toml`` the entries that fill slots;
each explains its format at its top. They are read once a process, and checked: an unknown key,
step, word or form is an error that names its place.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from model.core.config import Config
from model.core.errors import SourceError, SourceRecordError

DATA_DIRECTORY = Path(__file__).parent
PEOPLE = frozenset({"hero", "friend", "third"})
"""Variables that stand for different people of one kind."""

SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_NO_TEXT = re.compile(r"[{}%]")  # outside slots: a typing error, or misread by ``fill``

Forms = dict[str, str]
"""The forms of an entry: the plain one under "", others under the name written after a dot."""

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
StepNames = Annotated[
    Texts, BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]


class Move(Config):
    """One thing that happens in a story; a step of ``stories.toml``."""

    tell: Texts  # the patterns that may tell it; one is drawn
    # Question pattern -> answer pattern, for stories that tell this move.
    ask: dict[Text, Text] = Field(default_factory=dict)
    chance: float = Field(default=1.0, gt=0, le=1)  # how often a story of this plot tells it

    def patterns(self) -> Iterator[str]:
        """Yield every pattern, in the order in which they are written."""
        yield from self.tell
        for question, answer in self.ask.items():
            yield from (question, answer)


@dataclass(frozen=True, eq=False)  # compared by identity, so that a plot may key a cache
class Plot:
    """A kind of story: title patterns, and paragraphs of steps; a step is one of its moves."""

    titles: Texts
    paragraphs: tuple[tuple[tuple[Move, ...], ...], ...]

    def moves(self) -> Iterator[Move]:
        """Yield the moves in order."""
        yield from chain.from_iterable(chain.from_iterable(self.paragraphs))

    def patterns(self) -> Iterator[str]:
        """Yield every pattern: of the titles, then of each move."""
        yield from self.titles
        for move in self.moves():
            yield from move.patterns()


class Exchange(Config):
    """Something a person may say, and the answers to it."""

    said: Texts
    answers: Texts


class Chats(Config):
    """Content of ``chats.toml``."""

    story_requests: Texts
    small_talk: tuple[Exchange, ...] = Field(min_length=1)
    farewells: tuple[Exchange, ...] = Field(min_length=1)

    def patterns(self) -> Iterator[str]:
        """Yield every pattern."""
        yield from self.story_requests
        for exchange in (*self.small_talk, *self.farewells):
            yield from (*exchange.said, *exchange.answers)


@dataclass(frozen=True)
class Slot:
    """A place in a pattern: `{thing2.a}` is variable "thing2" of kind "thing" in form "a"."""

    variable: str
    form: str

    @property
    def kind(self) -> str:
        """Name the kind of entries that fill it."""
        return kind_of(self.variable)


@dataclass(frozen=True)
class Templates:
    """Content of the files."""

    plots: tuple[Plot, ...]
    chats: Chats
    kinds: Mapping[str, tuple[Forms, ...]]  # kind of slot -> its entries
    repeatable: frozenset[str]  # kinds whose slots are filled independently of each other
    foreign: Mapping[str, Texts]  # language code -> words


@cache
def kind_of(variable: str) -> str:
    """Name the kind of entries that fill a variable."""
    return "person" if variable in PEOPLE else variable.rstrip("0123456789")


@cache
def slots_of(pattern: str) -> tuple[Slot, ...]:
    """List the slots of a pattern in order."""
    return tuple(Slot(match[1], match[2] or "") for match in SLOT.finditer(pattern))


@cache
def templates() -> Templates:
    """Return the templates of this project's demo."""
    return read_templates(DATA_DIRECTORY)


def read_templates(directory: Path) -> Templates:
    """Read and check ``stories.toml``, ``chats.toml`` and ``words.toml`` of a directory.

    Raises:
        SourceError: a file is missing or is not TOML.
        SourceRecordError: an entry is wrong; its place is named.
    """
    stories_path, chats_path = directory / "stories.toml", directory / "chats.toml"
    words = _read(directory / "words.toml", _Words)
    stories, chats = _read(stories_path, _Stories), _read(chats_path, Chats)
    kinds = words.kinds()
    plots = []
    for name, written in stories.plots.items():
        where = f"{stories_path}, plots.{name}"
        plots.append(_plot(written, shared=stories.steps, where=where))
        _check_patterns(plots[-1].patterns(), kinds, where=where)
    _check_patterns(chats.patterns(), kinds, where=str(chats_path))
    return Templates(tuple(plots), chats, kinds, words.repeatable, words.foreign)


# --- the files as they are written ------------------------------------------------------------

_File = TypeVar("_File", bound=Config)


class _Plot(Config):
    titles: Texts
    paragraphs: tuple[tuple[StepNames, ...], ...] = Field(min_length=1)
    steps: dict[str, Move]


class _Stories(Config):
    steps: dict[str, Move]
    plots: dict[str, _Plot] = Field(min_length=1)


class _People(Config):
    names: Texts
    he: Text
    him: Text
    his: Text
    child: Text


class _Words(Config):
    repeatable: frozenset[str]
    people: tuple[_People, ...] = Field(min_length=1)
    plain: dict[str, Texts]
    with_article: dict[str, Texts]
    nouns: dict[str, Annotated[dict[Text, Text], Field(min_length=1)]]
    places: dict[str, Annotated[tuple[tuple[Text, Text], ...], Field(min_length=1)]]
    verb_phrases: dict[
        str, Annotated[tuple[tuple[Text, Text, Text, Text], ...], Field(min_length=1)]
    ]
    foreign: dict[str, Texts]

    @model_validator(mode="after")
    def _each_kind_once(self) -> Self:
        tables = (self.plain, self.with_article, self.nouns, self.places, self.verb_phrases)
        counts = Counter(["person", *chain.from_iterable(tables)])
        for kind, count in counts.items():
            if count > 1:
                raise ValueError(f"kind {kind} stands in two tables")
        for kind in sorted(self.repeatable - counts.keys()):
            raise ValueError(f"repeatable names {kind}, which is no kind of this file")
        return self

    def kinds(self) -> dict[str, tuple[Forms, ...]]:
        """Return the entries of each kind with all their forms."""
        people = [
            {"": name, "s": f"{name}'s", **group.model_dump(exclude={"names"})}
            for group in self.people
            for name in group.names
        ]
        found = {"person": people}
        for kind, words in self.plain.items():
            found[kind] = [{"": word} for word in words]
        for kind, words in self.with_article.items():
            found[kind] = [{"": word, "a": _with_article(word)} for word in words]
        for kind, pairs in self.nouns.items():
            found[kind] = [
                {"": one, "a": _with_article(one), "s": f"{one}'s", "many": many}
                for one, many in pairs.items()
            ]
        for kind, places in self.places.items():
            found[kind] = [{"": place, "in": f"{where} {place}"} for where, place in places]
        for kind, verbs in self.verb_phrases.items():
            found[kind] = [
                {"": f"{base} {rest}", "past": f"{past} {rest}", "s": f"{third} {rest}"}
                for base, past, third, rest in verbs
            ]
        return {kind: tuple(entries) for kind, entries in found.items()}


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _read(path: Path, kind: type[_File]) -> _File:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SourceError(
            "a file of the demo's templates cannot be read",
            expected="TOML in UTF-8",
            found=exc,
            where=path,
            fix="correct it",
        ) from exc
    try:
        return kind.model_validate(content)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ", ".join(filter(None, (str(path), ".".join(map(str, first["loc"])))))
        raise _wrong(first["msg"], found=str(first["input"])[:200], where=where) from exc


def _plot(written: _Plot, *, shared: Mapping[str, Move], where: str) -> Plot:
    """Put the moves in the place of their names."""
    known = {**shared, **written.steps}
    used = set(chain.from_iterable(chain.from_iterable(written.paragraphs)))
    for name in used - known.keys():
        raise _wrong(f"one of the steps {', '.join(known)}", found=name, where=where)
    for name in written.steps.keys() - used:
        raise _wrong("steps that a paragraph names", found=name, where=where)
    paragraphs = tuple(
        tuple(tuple(known[name] for name in names) for names in paragraph)
        for paragraph in written.paragraphs
    )
    for paragraph in paragraphs:
        if not any(all(move.chance == 1 for move in step) for step in paragraph):
            expected = "in every paragraph a step that is always told (of chance 1)"
            raise _wrong(expected, found="none", where=where)
    return Plot(written.titles, paragraphs)


def _check_patterns(
    patterns: Iterable[str], kinds: Mapping[str, tuple[Forms, ...]], *, where: str
) -> None:
    """Refuse a pattern with a slot that no entry fills, or with a stray brace or percent sign."""
    for pattern in patterns:
        for slot in slots_of(pattern):
            if slot.kind not in kinds:
                known = [*sorted(PEOPLE), *(kind for kind in kinds if kind != "person")]
                raise _wrong(f"slots of {', '.join(known)}", found=pattern, where=where)
            if any(slot.form not in forms for forms in kinds[slot.kind]):
                forms = ", ".join(f".{form}" for form in kinds[slot.kind][0] if form)
                expected = f"{slot.variable} without a form or with one of: {forms or 'none'}"
                raise _wrong(expected, found=pattern, where=where)
        if _NO_TEXT.search(SLOT.sub("", pattern)):
            raise _wrong("no brace or percent sign outside a slot", found=pattern, where=where)


def _wrong(expected: str, *, found: object, where: str) -> SourceRecordError:
    return SourceRecordError(
        "the demo's templates are wrong",
        expected=expected,
        found=found,
        where=where,
        fix="correct it",
    )
