"""Words that source and docs do not use: one thing has one name, the name that the field uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("model", "tasks", "flows", "deployments", "benchmarks", "tests", "docs")
FILES = ("README.md", "Makefile", "pyproject.toml", "docker-compose.yml")
SUFFIXES = re.compile(r"\.(py|sql|js|css|html|jinja|dot|md|txt|toml|yaml|yml)$")
THIS = Path(__file__).relative_to(ROOT).as_posix()

# A word or phrase, whatever its case -> what to write in its place.
WORDS = {
    r"lessons?|teach|teaches|taught|teachers?": "SFT example, chat encoder, DPO pair; train",
    r"trunks?": "pre-decay checkpoint; backbone",
    r"strangers?": "unknown names; other documents",
    r"crown|crowned": "set champion, promote",
    r"condemn|condemns|condemned": "drop, remove",
    r"look-?alikes?": "near-duplicates",
    r"anew": "again",
    r"for ever": "without end; stable",
    r"mend|mends|mended": "fix; user-fixable",
    r"patience": "retries with exponential backoff",
    r"the dial|one dial|dialled": "hyperparameter defaults, from the model size",
    r"circumstances": "environment",
    r"suffers": "degrades",
    r"upstairs": "a layer above",
    r"speedometer": "ThroughputMeter",
    r"class World": "DistributedContext",
    r"says? of itself": "reports; metrics, summary",
    r"(?:find|finds|found) its feet": "warm up",
}
# (file, word) where the word is data or the right one.
ALLOWED = {
    ("tasks/corpus/demo/stories.toml", "teach"),  # "Can you teach me?" asked a friend
    ("tasks/corpus/demo/words.toml", "teacher"),  # a person of the stories
    ("tests/support/plain_text.py", "mend"),  # test sentences
    ("tests/support/plain_text.py", "patience"),
    ("model/config/outputs.py", "trunk"),  # `is_trunk` is a name in stored manifests
    ("model/train/recorder.py", "trunk"),
    ("tests/model/train/test_extend_horizon.py", "trunk"),
    ("tests/model/train/test_trainer.py", "trunk"),
}


def findings(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield (word, line number, what to write) for each such word in a text."""
    for words, instead in WORDS.items():
        for match in re.finditer(rf"(?<![a-z-])(?:{words})(?![a-z-])", text, re.IGNORECASE):
            yield match.group().lower(), text.count("\n", 0, match.start()) + 1, instead


def written_files() -> Iterator[Path]:
    yield from (ROOT / name for name in FILES)
    for folder in FOLDERS:
        paths = sorted((ROOT / folder).rglob("*"))
        yield from (path for path in paths if SUFFIXES.search(path.name))


def test_words_are_the_fields() -> None:
    found = []
    for path in written_files():
        name = path.relative_to(ROOT).as_posix()
        if name == THIS:
            continue
        for word, line, instead in findings(path.read_text(encoding="utf-8")):
            if (name, word) not in ALLOWED:
                found.append(f"{name}:{line}: {word!r}; write: {instead}")
    assert not found, "\n" + "\n".join(found)


def test_allowed_words_are_still_there() -> None:
    for name, word in ALLOWED:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert word in {found for found, _, _ in findings(text)}, f"{name} has no {word!r} left"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Lessons\nare taught", ["lessons", "taught"]),
        ("The Dial's rates", ["the dial"]),
        ("class World:", ["class world"]),
        ("recommend, trunked, radial, a dial", []),
    ],
)
def test_word_is_found_whole_in_any_case(text: str, words: list[str]) -> None:
    assert sorted(word for word, _, _ in findings(text)) == sorted(words)
