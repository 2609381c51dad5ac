"""The demo's template files: what is read from them, and how errors in them are reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.core.errors import SourceError, SourceRecordError
from tasks.corpus.demo.templates import DATA_DIRECTORY, Slot, read_templates, slots_of, templates


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the demo's own files."""
    for path in DATA_DIRECTORY.glob("*.toml"):
        shutil.copy(path, tmp_path)
    return tmp_path


def change(directory: Path, name: str, old: str, new: str) -> None:
    path = directory / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_templates_of_the_demo_have_plots_words_and_exchanges():
    found = templates()
    assert len(found.plots) == 10
    assert found.kinds["person"][0]["s"] == "Anna's"
    assert found.kinds["animal"][4] == {"": "mouse", "a": "a mouse", "s": "mouse's", "many": "mice"}
    assert {"": "the zoo", "in": "at the zoo"} in found.kinds["place"]
    assert {"": "sew a shirt", "past": "sewed a shirt", "s": "sews a shirt"} in found.kinds["craft"]
    assert found.repeatable == {"colour", "look", "job", "number"}
    assert templates() is found


def test_slots_of_pattern_gives_variable_form_and_kind():
    slots = slots_of("{friend.his} {thing2.a} {colour}")
    assert slots == (Slot("friend", "his"), Slot("thing2", "a"), Slot("colour", ""))
    assert [slot.kind for slot in slots] == ["person", "thing", "colour"]


def test_read_templates_of_a_changed_story_has_the_change(directory):
    change(
        directory, "stories.toml", "Nobody else was there.", "A {animal} slept near the {thing}."
    )
    moves = [move for plot in read_templates(directory).plots for move in plot.moves()]
    assert [move for move in moves if "A {animal} slept near the {thing}." in move.tell]


def test_read_templates_step_of_several_names_is_one_of_them(directory):
    paragraphs = [p for plot in read_templates(directory).plots for p in plot.paragraphs]
    choices = [step for paragraph in paragraphs for step in paragraph if len(step) > 1]
    assert len(choices) == 3
    assert all(len(step) == 2 for step in choices)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("stories.toml", "chance = 0.6", "chance = 1.6", "steps.weather.chance"),
        ("stories.toml", "chance = 0.6", "chances = 0.6", "steps.weather.chances"),
        ("stories.toml", '"goes", "walks"', '"gose", "walks"', "found: gose"),
        ("stories.toml", '"goes", "walks"', '"goes"', "found: walks"),
        ("stories.toml", "Nobody else", "{nobody} else", "found: {nobody} else was there."),
        ("stories.toml", "{hero.child} called", "{hero.age} called", "one of: .s, .he"),
        ("stories.toml", "{trait.a} {hero.child} called", "{trait.b} called", "one of: .a"),
        ("stories.toml", "Nobody else", "{thing else", "no brace or percent sign"),
        ("stories.toml", "Nobody else", "100% nobody else", "no brace or percent sign"),
        ("chats.toml", "Hello, {hero}!", "Hello, {heroine}!", "where: "),
        ("chats.toml", "answers =", "answer =", "small_talk.0.answer"),
        ("words.toml", "joy = [", "joy = [[", "cannot be read"),
        ("words.toml", "trait = [", "joy = ['glad']\ntrait = [", "kind joy stands in two tables"),
        ("words.toml", '"job", ', '"jobs", ', "repeatable names jobs"),
        ("words.toml", '"cold"', '""', "with_article.weather.4"),
    ],
)
def test_read_templates_wrong_entry_is_named(directory, name, old, new, words):
    change(directory, name, old, new)
    with pytest.raises(SourceError) as error:
        read_templates(directory)
    assert words in str(error.value)
    assert name in str(error.value)


def test_read_templates_paragraph_that_may_be_empty_is_refused(directory):
    change(
        directory, "stories.toml", '["meets", "friend_says", "gives", "talk", "end"],', '["talk"],'
    )
    for name in ("meets", "friend_says", "gives", "end"):
        start = (directory / "stories.toml").read_text(encoding="utf-8")
        begin = start.index(f"[plots.found.steps.{name}]")
        end = start.index("\n[", begin)
        (directory / "stories.toml").write_text(start[:begin] + start[end + 1 :], encoding="utf-8")
    with pytest.raises(SourceRecordError, match="always told"):
        read_templates(directory)


def test_read_templates_missing_file_is_a_source_error(directory):
    (directory / "words.toml").unlink()
    with pytest.raises(SourceError, match="cannot be read") as error:
        read_templates(directory)
    assert str(directory / "words.toml") in str(error.value)
