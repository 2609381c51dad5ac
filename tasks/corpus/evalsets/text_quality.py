"""Scores of generated texts: grammar, repetition, diversity, endings, right answers.

    grammar_accepted   share of sentences that the demo's own grammar can produce
    parser_accepted    share of sentences that link-parser finds a complete linkage for
    repeated_4grams    share of the word 4-grams of a text that it has had before
    distinct_1, _2     different words, and pairs, over all of them (arXiv 1510.03055); they fall
                       as texts grow in number, so compare equal numbers of texts only
    ended              share of texts that ended by themselves
    mean_tokens        written per text
    answer_accuracy    share of questions whose first line of answer is the right one, exactly

All but the last are of openings. A last sentence that was cut off is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from model.data.prompts import Generation
from tasks.corpus.demo.grammar import Acceptance, share_accepted
from tasks.corpus.demo.stories import is_right_answer
from tasks.corpus.evalsets.link_grammar import accepted

_END = re.compile(r"""[.?!]["')\]]*$""")
_BORDER = re.compile(
    r"""(?<=[.?!])\s+(?=["'(\[]?[A-Z])|(?<=[.?!]["')\]])\s+(?=["'(\[]?[A-Z])|\n+"""
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Gen|Col|Capt|No|vs|[A-Z])\.$")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a text, and whether the parser accepts it."""

    text_number: int
    sentence: str
    parser_accepted: bool | None


@dataclass(frozen=True)
class TextScores:
    """Scores over all texts, and the sentences they were made from."""

    metrics: dict[str, float]
    counts: dict[str, int]
    sentences: list[Sentence]


def score_texts(
    generations: Sequence[Generation], *, has_parser: bool, is_demo: bool
) -> TextScores:
    """Return the scores of texts that a model wrote.

    Args:
        has_parser: link-parser checks the sentences.
        is_demo: the demo's grammar checks them.
    """
    openings = [item for item in generations if item.kind == "opening"]
    questions = [item for item in generations if item.kind == "question"]
    sentences = _sentences(openings, has_parser=has_parser)
    metrics: dict[str, float] = {}
    counts = {"num_texts": len(openings), "num_sentences": len(sentences)}
    if openings:
        metrics |= _of_openings(openings)
    if openings and is_demo:
        found = [_by_demo_grammar(item) for item in openings]
        total = Acceptance(
            sum(item.num_sentences for item in found), sum(item.num_accepted for item in found)
        )
        metrics["grammar_accepted"] = total.share
        counts["num_grammar_sentences"] = total.num_sentences
    if sentences and has_parser:
        metrics["parser_accepted"] = fmean(bool(item.parser_accepted) for item in sentences)
    if questions:
        metrics["answer_accuracy"] = fmean(map(is_right, questions))
        counts["num_questions"] = len(questions)
    return TextScores(metrics, counts, sentences)


def is_right(generation: Generation) -> bool:
    """Tell whether a question's answer is the right one."""
    expected = generation.expected
    return expected is not None and is_right_answer(generation.text, expected=expected)


def _of_openings(openings: Sequence[Generation]) -> dict[str, float]:
    words = [_words(item.text) for item in openings]
    return {
        "repeated_4grams": fmean(_repeated(_ngrams(text, 4)) for text in words),
        "distinct_1": _distinct([gram for text in words for gram in _ngrams(text, 1)]),
        "distinct_2": _distinct([gram for text in words for gram in _ngrams(text, 2)]),
        "ended": fmean(item.finish == "stop" for item in openings),
        "mean_tokens": fmean(item.num_tokens for item in openings),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _ngrams(words: Sequence[str], num: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + num]) for start in range(len(words) - num + 1)]


def _repeated(ngrams: Sequence[tuple[str, ...]]) -> float:
    return 1 - _distinct(ngrams) if ngrams else 0.0


def _distinct(ngrams: Sequence[tuple[str, ...]]) -> float:
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _by_demo_grammar(item: Generation) -> Acceptance:
    tail = "dropped" if item.finish == "length" else "counted"
    return share_accepted(_whole(item), unfinished_tail=tail)


def _whole(item: Generation) -> str:
    """Return a text after its opening; an answer without the question."""
    return item.prompt + item.text if item.style == "text" else item.text


def _sentences(openings: Sequence[Generation], *, has_parser: bool) -> list[Sentence]:
    pairs = [
        (number, sentence)
        for number, item in enumerate(openings)
        for sentence in written_sentences(item)
    ]
    verdicts = accepted([sentence for _, sentence in pairs]) if has_parser else [None] * len(pairs)
    return [
        Sentence(number, sentence, verdict)
        for (number, sentence), verdict in zip(pairs, verdicts, strict=True)
    ]


def written_sentences(item: Generation) -> list[str]:
    """Return the sentences that the model wrote or completed, without a last one cut off."""
    whole = _whole(item)
    num_given = len(whole) - len(item.text)
    spans = [span for span in _spans(whole) if span[1] > num_given]
    if spans and item.finish == "length" and not _END.search(whole[slice(*spans[-1])]):
        spans.pop()
    sentences = (whole[begin:end].strip() for begin, end in spans)
    return [text for text in sentences if re.search(r"[A-Za-z]", text)]


def _spans(text: str) -> list[tuple[int, int]]:
    """Return where sentences begin and end: at end marks before a capital, and at line breaks."""
    spans, begin = [], 0
    for border in _BORDER.finditer(text):
        if "\n" not in border[0] and _ABBREVIATION.search(text, begin, border.start()):
            continue
        spans.append((begin, border.start()))
        begin = border.end()
    return [*spans, (begin, len(text))]
