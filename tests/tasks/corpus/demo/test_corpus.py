"""The demo corpus: its stories, the recogniser of its grammar, the faults planted in its shards."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from flows.settings.presets import demo
from model.core.errors import ConfigError
from tasks.corpus.demo.corpus import ROW_GROUP_ROWS, TRUTH_SCHEMA, generate_shard
from tasks.corpus.demo.documents import (
    ID_BORROWER_ROW,
    ID_LENDER_ROW,
    DocumentKind,
    PlantedRates,
    demo_document,
)
from tasks.corpus.demo.grammar import Acceptance, fill, is_title, patterns, share_accepted
from tasks.corpus.demo.stories import (
    document_text,
    held_out_questions,
    is_right_answer,
    passage,
    story,
)
from tasks.corpus.demo.templates import templates
from tasks.corpus.sources.fineweb_schema import FINEWEB_SCHEMA
from tests.support.grammar_check import is_sentence, word_forms

SEED = 7
NUM_DOCUMENTS = 2_500
PLENTY = PlantedRates(
    exact_duplicate=0.04,
    normalised_duplicate=0.04,
    near_duplicate=0.04,
    non_english=0.03,
    low_language_score=0.03,
    empty_text=0.02,
    null_text=0.02,
    too_short=0.02,
)

WORKED_EXAMPLE = """\
Max and his grandmother
There was once a kind boy whose name was Max. One day, he wanted to sew a shirt. It was not easy, but he wanted to learn. So he asked his grandmother for help. "I will show you," said his grandmother.
Together they worked for five hours. In the end, Max sewed a shirt, and it was not bad. He felt excited.
Rosa came to see it in the afternoon. They talked about it for a long time.
Question: How long did they work?
Answer: They worked for five hours.
Question: How did Max feel?
Answer: Max felt excited.
Question: Who did Max ask for help?
Answer: Max asked his grandmother for help.
Question: What was Max like?
Answer: Max was a kind boy."""  # noqa: E501


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[tuple[dict[str, int], list[dict], list[dict]]]:
    """Two shards of one corpus: documents by kind, documents, truth."""
    folder = tmp_path_factory.mktemp("demo")
    written = []
    for shard in range(2):
        path, truth_path = folder / f"{shard}.parquet", folder / f"{shard}-truth.parquet"
        counts = generate_shard(
            path,
            truth_path=truth_path,
            shard=shard,
            num_documents=NUM_DOCUMENTS,
            seed=SEED,
            planted=PLENTY,
        )
        rows = [pq.read_table(file).to_pylist() for file in (path, truth_path)]
        written.append((counts, *rows))
    return written


def lines_of(shards, kind: str) -> list[tuple[dict, dict, dict | None]]:
    """For each row of a kind: the document, its truth, and the document it repeats."""
    found = []
    for _, documents, truth in shards:
        for line in truth:
            if line["kind"] == kind:
                original = None
                if line["original_row"] is not None:
                    original = shards[line["original_shard"]][1][line["original_row"]]
                found.append((documents[line["row"]], line, original))
    assert found, f"no row of kind {kind}: the test would say nothing"
    return found


def normalised(text: str) -> str:
    return " ".join(text.lower().split())


def five_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


# --- stories ----------------------------------------------------------------------------------


def test_document_text_fixed_seed_reads_as_written():
    assert document_text(Random("worked example 25")) == WORKED_EXAMPLE


def test_passage_stands_alone_and_says_what_its_answers_say():
    """Nothing in it refers to a sentence that was not told, and its answers may be copied."""
    names = {forms[""] for forms in templates().kinds["person"]}
    asked = set()
    for seed in range(2_000):
        drawn = passage(Random(seed))
        assert share_accepted(drawn.text).share == 1.0
        pronoun = re.search(r"\b(?:[Hh]e|[Ss]he|[Hh]is|[Hh]er|[Hh]im)\b", drawn.text)
        assert not pronoun or names & set(drawn.text[: pronoun.start()].replace("'", " ").split())
        for pair in drawn.questions:
            known = set(re.findall(r"\w+", f"{drawn.text} {pair.question}"))
            assert {name for name in names if name in pair.answer.split()} <= known, drawn
            asked.add(re.sub(r"[A-Z]\w+", "", pair.question.split(" ", 1)[1]))
    assert len(asked) > 60, "nearly every question is practised near its answer"


def test_document_text_of_many_seeds_is_wholly_accepted():
    checked = [share_accepted(document_text(Random(seed))) for seed in range(2_000)]
    assert all(found.num_accepted == found.num_sentences for found in checked)
    assert all(found.num_sentences >= 5 for found in checked)


def test_story_of_many_seeds_has_the_promised_length():
    stories = [story(Random(seed)) for seed in range(1_000)]
    num_words = [len(drawn.body.split()) for drawn in stories]
    assert min(num_words) >= 55
    assert max(num_words) <= 160
    assert all(len({pair.answer for pair in drawn.questions}) >= 3 for drawn in stories)


def test_story_questions_have_one_answer_each():
    for seed in range(1_000):
        questions = [pair.question for pair in story(Random(seed)).questions]
        assert len(set(questions)) == len(questions), questions


def test_story_answers_name_only_what_story_or_question_names():
    """An answer may be copied: each thing in it stands in the story or in the question."""
    kinds = templates().kinds.values()
    entries = {forms[""].split()[-1].lower() for kind in kinds for forms in kind}
    for seed in range(500):
        drawn = story(Random(seed))
        for pair in drawn.questions:
            known = set(re.findall(r"\w+", f"{drawn.body} {pair.question}".lower()))
            named = set(re.findall(r"\w+", pair.answer.lower())) & entries
            assert named, pair
            assert named <= known, (drawn.body, pair)


def test_grammar_has_a_small_vocabulary_and_many_patterns():
    assert 400 <= len(word_forms()) <= 700
    assert len(patterns("statement")) >= 200
    assert len(patterns("question")) >= 60


def test_fill_lower_case_slot_first_starts_with_a_capital():
    bindings = {"colour.a": "an orange", "thing": "kite"}
    assert fill("{colour.a} {thing} was there.", bindings) == "An orange kite was there."


# --- held-out questions -----------------------------------------------------------------------


def test_held_out_questions_stories_never_occur_in_training():
    held_out = list(held_out_questions(20, seed=SEED))
    assert held_out == list(held_out_questions(20, seed=SEED))
    assert held_out != list(held_out_questions(20, seed=SEED + 1))
    for question in held_out:
        lines = question.prompt.split("\n")
        body = lines[1:-2] if is_title(lines[0]) else lines[:-2]
        assert lines[-2].startswith("Question: ")
        assert lines[-1] == "Answer:"
        assert share_accepted("\n".join(body)).share == 1.0
        assert is_sentence(question.answer)
    for seed in range(30):
        assert story(Random(seed)).split == "training"
        assert story(Random(seed), split="held_out").split == "held_out"


@pytest.mark.parametrize(
    ("written", "right"),
    [
        (" Anna found a red ball.", True),
        (" Anna found a red ball.\nQuestion: Who came?", True),
        (" Anna found a blue ball.", False),
        (" Anna found a red ball. Ben smiled.", False),
        ("", False),
    ],
)
def test_is_right_answer_first_line_decides(written, right):
    assert is_right_answer(written, expected="Anna found a red ball.") is right


def test_held_out_questions_negative_number_names_what_to_do():
    with pytest.raises(ConfigError, match="cannot be negative") as error:
        held_out_questions(-1, seed=SEED)
    assert "found: -1" in str(error.value)


# --- the recogniser ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "Ben took an orange cup with him.",
        "Then Hugo found a black bell in the attic.",
        "She felt very proud.",
        "Her mother was glad to help.",
        '"Where is my bell?" asked Hugo.',
        '"Thank you, Mia," said Paul.',
        "Leo saw two mice on the way.",
        "Jack counted to ten.",
        "What did Oscar find?",
        "Rosa, Max and Lily played a game.",
        "Lucy likes eggs, but Ben likes cherries.",
    ],
)
def test_is_sentence_of_the_grammar_is_accepted(sentence):
    assert is_sentence(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        pytest.param("", id="empty"),
        pytest.param("Anna", id="a name"),
        pytest.param("Anna found a orange kite under a tree.", id="a for an"),
        pytest.param("Anna found an red kite under a tree.", id="an for a"),
        pytest.param("Anna found kite red a under a tree.", id="scrambled"),
        pytest.param("Anna found found a red kite under a tree.", id="repeated word"),
        pytest.param("Anna found a red zeppelin under a tree.", id="unknown word"),
        pytest.param("Anna found a red kite under a tree", id="no full stop"),
        pytest.param("Anna found a red kite under a tree..", id="two full stops"),
        pytest.param("Anna  found a red kite under a tree.", id="two spaces"),
        pytest.param("anna found a red kite under a tree.", id="name in lower case"),
        pytest.param("she felt very proud.", id="lower-case start"),
        pytest.param("SHE FELT VERY PROUD.", id="upper case"),
        pytest.param("Her felt very proud.", id="object for subject"),
        pytest.param("Anna and Ben was at home.", id="plural with singular verb"),
        pytest.param("The apples was fresh.", id="plural noun, singular verb"),
        pytest.param("They has known each other for two years.", id="has for have"),
        pytest.param("He live near the lake.", id="third person without s"),
        pytest.param("He go to the lake.", id="he go"),
        pytest.param("Anna saw two goose on the way.", id="singular after a number"),
        pytest.param("Anna saw two gooses on the way.", id="wrong plural"),
        pytest.param("Anna has a dogs.", id="plural after an article"),
        pytest.param("Anna asked his mother for help.", id="her name, his pronoun"),
        pytest.param("Tom closed her eyes and counted to ten.", id="his name, her pronoun"),
        pytest.param("Anna was a kind boy.", id="her name, boy"),
        pytest.param("Anna gave Anna a red kite.", id="gave herself"),
        pytest.param("Anna, Ben and Anna played a game.", id="one person twice"),
        pytest.param("They ate bread and bread.", id="one food twice"),
        pytest.param("The race was at the river.", id="wrong preposition"),
        pytest.param("What did Anna found?", id="past after did"),
        pytest.param("What did Anna find.", id="question with full stop"),
        pytest.param("Anna found a red kite. She felt proud.", id="two sentences"),
    ],
)
def test_is_sentence_outside_the_grammar_is_rejected(sentence):
    assert not is_sentence(sentence)


def test_is_sentence_any_two_words_swapped_is_rejected():
    """A few swaps stay in the grammar: two names, two colours."""
    rng = Random(SEED)
    swapped = set()
    for seed in range(60):
        for sentence in story(Random(seed)).sentences:
            words = sentence.split()
            first, second = sorted(rng.sample(range(len(words)), 2))
            words[first], words[second] = words[second], words[first]
            swapped.add(" ".join(words))
    accepted = [sentence for sentence in swapped if is_sentence(sentence)]
    assert len(accepted) < 0.05 * len(swapped), accepted


def test_share_accepted_mixed_text_counts_each_sentence():
    text = (
        "Anna and the kite\n"
        "Anna was a kind girl. She found kite. It was an icy day.\n"
        '"Where is my kite?" asked Anna. Nobody else was there.\n'
        "Question: What was Anna like?\n"
        "Answer: Anna was a kind girl.\n"
        "Question: Anna was a kind girl.\n"
        "Answer: What was Anna like?"
    )
    assert share_accepted(text) == Acceptance(num_sentences=9, num_accepted=6)


def test_share_accepted_unfinished_tail_is_counted_or_dropped():
    text = "It was an icy day. Anna was a ki"
    assert share_accepted(text) == Acceptance(num_sentences=2, num_accepted=1)
    assert share_accepted(text, unfinished_tail="dropped") == Acceptance(1, 1)


def test_share_accepted_empty_text_has_share_zero():
    assert share_accepted("\n \n").share == 0.0


# --- shards -----------------------------------------------------------------------------------


def test_generate_shard_writes_fineweb_columns_in_row_groups(tmp_path):
    path = tmp_path / "part.parquet"
    generate_shard(path, shard=0, num_documents=ROW_GROUP_ROWS + 1, seed=SEED)
    written = pq.ParquetFile(path)
    assert written.schema_arrow.equals(FINEWEB_SCHEMA)
    groups = [written.metadata.row_group(number) for number in range(written.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP_ROWS, 1]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}
    assert pq.read_schema(tmp_path / "truth.parquet").equals(TRUTH_SCHEMA)


def test_generate_shard_in_another_process_gives_equal_bytes(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from tasks.corpus.demo.corpus import generate_shard;"
        "generate_shard(Path(sys.argv[1]), shard=2, num_documents=300, seed=7)"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        path = tmp_path / hash_seed / "part.parquet"
        path.parent.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            check=True,
            cwd=Path(__file__).parents[4],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        files = [path, path.with_name("truth.parquet")]
        digests.add(tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
    assert len(digests) == 1


def test_generate_shard_other_seed_or_shard_shares_no_text(tmp_path):
    texts = []
    for number, (shard, seed) in enumerate([(0, 1), (1, 1), (0, 2)]):
        path = tmp_path / f"{number}.parquet"
        none_planted = PlantedRates(*[0.0] * 8)
        generate_shard(path, shard=shard, num_documents=50, seed=seed, planted=none_planted)
        texts.append(set(pq.read_table(path)["text"].to_pylist()))
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]


def test_generate_shard_counts_add_up_to_the_truth(shards):
    for counts, documents, truth in shards:
        assert len(documents) == len(truth) == NUM_DOCUMENTS
        assert sum(counts.values()) == NUM_DOCUMENTS
        kinds = [line["kind"] for line in truth]
        assert {kind: kinds.count(kind) for kind in counts} == counts
        assert [line["row"] for line in truth] == list(range(NUM_DOCUMENTS))
        assert [line["id"] for line in truth] == [document["id"] for document in documents]


def test_generate_shard_planted_rates_are_kept(shards):
    for counts, _, _ in shards:
        expected = PLENTY.exact_duplicate * NUM_DOCUMENTS
        assert 0.7 * expected < counts["exact_duplicate"] < 1.3 * expected


def test_demo_document_of_any_row_equals_the_row_in_the_file(shards):
    for shard, (_, documents, truth) in enumerate(shards):
        for row in range(0, NUM_DOCUMENTS, 17):
            again = demo_document(row, shard=shard, seed=SEED, planted=PLENTY)
            assert again.record == documents[row]
            assert again.kind == truth[row]["kind"]


def test_truth_exact_duplicates_repeat_text_under_another_id(shards):
    for document, _, original in lines_of(shards, "exact_duplicate"):
        assert document["text"] == original["text"]
        assert document["id"] != original["id"]
        assert document["url"] != original["url"]
        assert document["language_score"] < original["language_score"]


def test_truth_normalised_duplicates_differ_only_in_case_or_space(shards):
    for document, _, original in lines_of(shards, "normalised_duplicate"):
        assert document["text"] != original["text"]
        assert normalised(document["text"]) == normalised(original["text"])


def test_truth_near_duplicates_are_close_but_not_equal(shards):
    for document, _, original in lines_of(shards, "near_duplicate"):
        assert normalised(document["text"]) != normalised(original["text"])
        ours, theirs = five_grams(document["text"]), five_grams(original["text"])
        assert len(ours & theirs) / len(ours | theirs) >= 0.8


def test_truth_duplicates_point_at_clean_rows_above_them(shards):
    across = 0
    for kind in ("exact_duplicate", "normalised_duplicate", "near_duplicate"):
        for document, line, original in lines_of(shards, kind):
            original_truth = shards[line["original_shard"]][2][line["original_row"]]
            assert original_truth["kind"] == "clean"
            assert line["original_row"] < line["row"]
            assert original is not document
            across += document["file_path"][-5:] != original["file_path"][-5:]
    assert across > 0


def test_truth_rows_equal_by_normalised_text_are_all_planted(shards):
    """Brute force over both shards: nothing repeats that the truth does not name."""
    first_seen: dict[str, str] = {}
    may_repeat = {kind for kind in DocumentKind if "duplicate" in kind}
    may_repeat |= {"empty_text", "null_text", "too_short"}
    for _, documents, truth in shards:
        for document, line in zip(documents, truth, strict=True):
            if line["kind"] not in may_repeat:
                text = normalised(document["text"])
                assert text not in first_seen, (line, first_seen[text])
                first_seen[text] = line["id"]


def test_document_text_of_20000_seeds_never_repeats():
    texts = {document_text(Random(f"unique {seed}")) for seed in range(20_000)}
    assert len(texts) == 20_000


def test_truth_faulty_rows_are_what_they_say(shards):
    for document, _, _ in lines_of(shards, "non_english"):
        assert document["language"] in {"es", "de", "fr", "fi"}
        assert document["language_score"] >= 0.65
    for document, _, _ in lines_of(shards, "low_language_score"):
        assert document["language"] == "en"
        assert document["language_score"] < 0.65
    assert all(document["text"] == "" for document, _, _ in lines_of(shards, "empty_text"))
    assert all(document["text"] is None for document, _, _ in lines_of(shards, "null_text"))
    for document, _, _ in lines_of(shards, "too_short"):
        assert is_sentence(document["text"])


def test_truth_clean_rows_are_english_with_a_high_score(shards):
    for document, _, _ in lines_of(shards, "clean"):
        assert document["language"] == "en"
        assert document["language_score"] >= 0.8
        assert len(document["text"].split()) >= demo().filter.min_words
        assert document["token_count"] >= len(document["text"].split())


def test_truth_repeated_id_is_the_only_pair_of_a_shard(shards):
    for shard, (_, documents, truth) in enumerate(shards):
        lender, borrower = documents[ID_LENDER_ROW], documents[ID_BORROWER_ROW]
        assert lender["id"] == borrower["id"]
        assert lender["text"] != borrower["text"]
        assert len({document["id"] for document in documents}) == NUM_DOCUMENTS - 1
        line = truth[ID_BORROWER_ROW]
        assert (line["original_shard"], line["original_row"]) == (shard, ID_LENDER_ROW)
        assert line["kind"] == "repeated_id"


@pytest.mark.parametrize(
    ("setting", "value", "least"), [("num_documents", -5, 1), ("shard", -1, 0), ("seed", -1, 0)]
)
def test_generate_shard_negative_setting_is_a_config_error(tmp_path, setting, value, least):
    settings = {"shard": 0, "num_documents": 10, "seed": 0} | {setting: value}
    with pytest.raises(ConfigError) as error:
        generate_shard(tmp_path / "part.parquet", **settings)
    message = str(error.value)
    assert f"found: {value}" in message
    assert f"where: {setting}" in message
    assert f"set {setting} to {least} or more" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rates", [{"empty_text": -0.1}, {"non_english": 0.6}])
def test_planted_rates_impossible_is_a_config_error(rates):
    with pytest.raises(ConfigError, match="cannot plant faults at these rates") as error:
        PlantedRates(**rates)
    name, rate = next(iter(rates.items()))
    assert f"{name}={rate}" in str(error.value)
