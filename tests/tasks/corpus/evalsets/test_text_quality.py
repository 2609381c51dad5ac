"""Judging texts: sentences, repetition, a real parser, the demo's grammar, right answers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.stages.generation_prompts
import tasks.stages.judge_texts
from model.config.outputs import ScoreModelOutputs
from model.config.trained_model import Style
from model.core.config import Config
from model.core.errors import ConfigError
from model.core.store import ArtifactStore, Work
from model.data.prompts import (
    Generation,
    Prompt,
    read_generations,
    read_prompts,
    write_generations,
    write_prompts,
)
from tasks.config.evaluation import EvaluationConfig
from tasks.corpus.demo.stories import held_out_questions
from tasks.corpus.evalsets.link_grammar import MAX_BYTES, accepted, parser_version
from tasks.corpus.evalsets.prompts import chat_openings, demo_questions, document_openings
from tasks.corpus.evalsets.text_quality import score_texts, written_sentences
from tasks.engine.stage import ResourceShare
from tasks.stages.generation_prompts import GenerationPrompts, generation_prompts
from tasks.stages.judge_texts import JudgeTexts, JudgeTextsOutputs, judge_texts
from tests.support.small_pipeline import make

needs_parser = pytest.mark.skipif(
    parser_version() is None, reason="needs link-parser (Debian package link-grammar)"
)
GOOD = ("The cat sat on the mat.", '"I can hear you," said Nora.', "Who lives here?")
BAD = ("Cat the the sat mat.", "He went to to store.", "Him is the a boy.")


def wrote(text: str, **changes: Any) -> Generation:
    fields = {
        "kind": "opening", "style": "text", "prompt": "Tom was", "text": text, "expected": None,
        "num_tokens": len(text), "finish": "stop",
    }  # fmt: skip
    return Generation.model_validate(fields | changes)


def asked(style: Style, *, is_demo: bool) -> GenerationPrompts:
    config = EvaluationConfig(num_questions=3)
    return GenerationPrompts.of(config, style=style, is_demo=is_demo)


def test_sentences_are_those_the_model_had_a_hand_in() -> None:
    item = wrote(" kind. He met Mr. Smith.\nWho lives", prompt="It rained. Tom was")
    assert written_sentences(item) == ["Tom was kind.", "He met Mr. Smith.", "Who lives"]
    cut = item.model_copy(update={"finish": "length"})
    assert written_sentences(cut) == ["Tom was kind.", "He met Mr. Smith."]
    answer = wrote("It is 3.5 miles. Go.", style="chat", prompt="How far?")
    assert written_sentences(answer) == ["It is 3.5 miles.", "Go."]


def test_measures_worked_example() -> None:
    # Six words; of the three 4-grams of "a b a b a b" one is repeated.
    texts = [wrote("a b a b a b"), wrote("c d", finish="length", num_tokens=5)]
    metrics = score_texts(texts, has_parser=False, is_demo=False).metrics
    assert metrics == {
        "repeated_4grams": pytest.approx((1 / 3 + 0) / 2),
        "distinct_1": pytest.approx(4 / 8),
        "distinct_2": pytest.approx(3 / 6),
        "ended": 0.5,
        "mean_tokens": pytest.approx((11 + 5) / 2),
    }


def test_demo_grammar_judges_the_whole_text() -> None:
    good = wrote(" a kind boy.", prompt="Tom was")
    bad = wrote(" a kind. Boy lake the.", prompt="Tom was")
    scores = score_texts([good, bad], has_parser=False, is_demo=True)
    assert scores.metrics["grammar_accepted"] == pytest.approx(1 / 3)
    assert scores.counts["num_grammar_sentences"] == 3


def test_answers_are_right_to_the_letter() -> None:
    (asked,) = demo_questions(1, seed=3, style="text")
    assert asked.expected
    question = {"kind": "question", "prompt": asked.text, "expected": asked.expected}
    texts = [f" {asked.expected}\nQuestion: Who", f" {asked.expected} Yes.", " Nobody."]
    scores = score_texts(
        [wrote(text, **question) for text in texts], has_parser=False, is_demo=True
    )
    assert scores.metrics == {"answer_accuracy": pytest.approx(1 / 3)}


def test_demo_questions_are_held_out_ones_in_both_styles() -> None:
    (text,) = demo_questions(1, seed=3, style="text")
    (expected,) = held_out_questions(1, seed=3)
    assert (text.text, text.expected) == (expected.prompt, expected.answer)
    (chat,) = demo_questions(1, seed=3, style="chat")
    assert chat.messages[-1].role == "user"
    assert chat.expected
    assert chat.expected.endswith(".")


def test_openings_of_documents_keep_their_white_space(tmp_path: Path) -> None:
    path = tmp_path / "validation.parquet"
    pq.write_table(pa.table({"text": ["A\nb c d e", "f  g", " ", "h i j k l"]}), path)
    openings = document_openings(path, num=9, num_words=3)
    assert [prompt.text for prompt in openings] == ["A\nb c", "f  g", "h i j"]
    assert [prompt.text for prompt in document_openings(path, num=1, num_words=1)] == ["A"]


def test_chat_openings_go_round_and_none_is_an_error() -> None:
    found = [prompt.messages[0].content for prompt in chat_openings(["a", "b"], num=3)]
    assert found == ["a", "b", "a"]
    with pytest.raises(ConfigError, match="nothing to answer") as caught:
        chat_openings([], num=1)
    assert "evaluation.chat_prompts" in str(caught.value)
    assert chat_openings([], num=0) == []  # what the error says to do


@pytest.mark.parametrize("style", ["text", "chat"])
def test_stage_asks_questions_alone_where_no_opening_is_wanted(
    style: Style, tmp_path: Path
) -> None:
    evaluation = EvaluationConfig(num_generations=0, num_questions=3, chat_prompts=())
    config = GenerationPrompts.of(evaluation, style=style, is_demo=True)

    def body(work: Work) -> None:
        generation_prompts.build(work, config, ResourceShare(threads=1, memory_bytes=10**8))

    derivation = generation_prompts.derive("base", config=config, inputs={})
    manifest = ArtifactStore(tmp_path).build(derivation, body)
    assert manifest.counts == {"num_openings": 0, "num_questions": 3}


def test_prompts_and_generations_survive_the_round_trip(tmp_path: Path) -> None:
    prompts = [Prompt(kind="opening", text="A\nb"), *demo_questions(2, seed=1, style="chat")]
    write_prompts(tmp_path / "prompts.parquet", prompts)
    assert read_prompts(tmp_path / "prompts.parquet") == prompts
    texts = [wrote("x"), wrote("", kind="question", expected="y")]
    write_generations(tmp_path / "generations.parquet", texts)
    assert read_generations(tmp_path / "generations.parquet") == texts


@needs_parser
def test_parser_accepts_english_and_refuses_what_is_not() -> None:
    sentences = [*GOOD, *BAD, *GOOD, "!batch", "word " * 200]
    assert accepted(sentences) == [True] * 3 + [False] * 3 + [True] * 3 + [True, False]
    assert accepted([]) == []


@needs_parser
@pytest.mark.parametrize("unreadable", ["The cat\0 sat.", "The cat is " + "b" * 3000, "é" * 1023])
def test_parser_is_not_asked_what_it_cannot_read(unreadable: str) -> None:
    assert accepted([GOOD[0], unreadable, GOOD[2], BAD[0]]) == [True, False, True, False]


@needs_parser
def test_parser_reads_lines_up_to_the_limit() -> None:
    longest = "The cat saw the " + "b" * (MAX_BYTES - 17) + "."
    assert len(longest.encode()) == MAX_BYTES
    assert accepted([longest, GOOD[0]]) == [True, True]


@needs_parser
def test_parser_shares_are_of_whole_sentences() -> None:
    texts = [wrote(" ".join([*GOOD, BAD[0]]), style="chat"), wrote("He ra", finish="length")]
    scores = score_texts(texts, has_parser=True, is_demo=False)
    assert scores.metrics["parser_accepted"] == pytest.approx(3 / 4)
    assert [item.parser_accepted for item in scores.sentences] == [True, True, True, False]


def test_stage_without_a_parser_says_so_and_its_key_is_another(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    write_generations(tmp_path / "g.parquet", [wrote(" a kind boy.")])
    scores = make(store, ScoreModelOutputs, "base", files={"scores.json": "{}"})
    place = store.path(scores.artifact) / "generations.parquet"
    place.write_bytes((tmp_path / "g.parquet").read_bytes())
    config = JudgeTexts.here(EvaluationConfig(parser="off"), is_demo=True)

    def derive(config: JudgeTexts):
        return judge_texts.derive("base", config=config, inputs={"scores": scores.artifact})

    def body(work: Work) -> None:
        judge_texts.build(work, config, ResourceShare(threads=1, memory_bytes=10**8))

    manifest = store.build(derive(config), body)
    assert (
        "link-parser is not installed"
        in JudgeTextsOutputs.facts_of(manifest).absent["parser_accepted"]
    )
    assert "parser_accepted" not in manifest.facts
    assert JudgeTextsOutputs.facts_of(manifest).grammar_accepted == 1.0
    table = pq.read_table(store.path(manifest.artifact) / "sentences.parquet").to_pylist()
    assert table == [{"text_number": 0, "sentence": "Tom was a kind boy.", "parser_accepted": None}]
    other = JudgeTexts(parser="link-grammar-5.12.0", is_demo=True)
    assert derive(other).key != derive(config).key


@pytest.mark.parametrize(
    ("module", "constant", "config"),
    [
        (tasks.stages.judge_texts, "DEMO_CORPUS_VERSION", JudgeTexts(parser=None, is_demo=True)),
        (tasks.stages.generation_prompts, "DEMO_CORPUS_VERSION", asked("text", is_demo=True)),
        (tasks.stages.generation_prompts, "DEMO_CHATS_VERSION", asked("chat", is_demo=True)),
    ],
)
def test_key_follows_the_version_of_the_demo_where_it_is_asked(
    module: ModuleType, constant: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = {"is_demo": False} if isinstance(config, JudgeTexts) else {"num_questions": 0}
    without = config.model_copy(update=off)
    before = config.semantic(), without.semantic()
    monkeypatch.setattr(module, constant, 99)
    assert config.semantic() != before[0]
    assert without.semantic() == before[1]
