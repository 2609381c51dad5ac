"""Conversations of the demo: what is said in them, what is held out, and what answers are wrong."""

from __future__ import annotations

import re
import zlib

import pytest

from model.core.errors import ConfigError
from model.text.chat_template import read_messages
from model.text.conversation import conversation_ids
from model.text.tokenizer import Tokenizer
from tasks.config.corpus import TokenizerConfig
from tasks.corpus.demo.chats import demo_conversations, demo_preferences, held_out_conversations
from tasks.corpus.demo.documents import demo_document
from tasks.corpus.demo.grammar import share_accepted
from tasks.corpus.demo.stories import is_right_answer
from tasks.tokens.bpe import train_bpe
from tests.support.grammar_check import is_sentence

SEED = 7
CONTEXT_TOKENS = 256  # of the demo
VOCAB_SIZE = 1_280  # of the demo

WORKED_EXAMPLE = """\
user: There was once a curious girl whose name was Lucy. One afternoon, Lucy went to the island. She walked slowly and looked around. That day, the weather was sunny. Soon Lucy found a purple doll. This made her feel glad. Lucy looked at the doll for a long time.
On the way home, Lucy met Adam. Lucy gave the doll to Adam. They walked home together.
How did Lucy feel?
assistant: Lucy felt glad.
user: Where did Lucy go?
assistant: Lucy went to the island.
user: What did Lucy give to Adam?
assistant: Lucy gave the doll to Adam.
user: What did Lucy find?
assistant: Lucy found a purple doll.
user: It was a sunny afternoon, and there was nothing to do. Adam, Leo and Ben played a game at home. First, Adam counted to two. Leo quickly hid under the bed. Ben quickly hid under the table.
"Where are you?" called Adam. Adam found Ben first, and they both laughed. Adam also found a black drum in the attic. In the end, they ate cake and cheese together. Then they played again.
Where was the drum?
assistant: The drum was in the attic.
user: Where did Leo hide?
assistant: Leo hid under the bed.
user: Where did Ben hide?
assistant: Ben hid under the table.
user: What was the weather like?
assistant: The weather was sunny.
user: Who played a game?
assistant: Adam, Leo and Ben played a game.
user: Tell me a story about Tom.
assistant: Tom and Oscar went to the market. Tom needed eggs, and Oscar needed cherries. Tom bought four eggs. Then Oscar bought eight cherries. They paid five coins.
Then they met Clara. "That looks very good," said Clara. Then Oscar gave Clara a cherry. In the end, they ate bread and cake together. They all walked home together.
user: What did Oscar give Clara?
assistant: Oscar gave Clara a cherry.
user: Who did they meet?
assistant: They met Clara.
user: What did they eat?
assistant: They ate bread and cake.
user: Who went to the market?
assistant: Tom and Oscar went to the market."""  # noqa: E501


def said(conversation, role: str) -> list[str]:
    return [turn["content"] for turn in conversation if turn["role"] == role]


def split_off(content: str) -> tuple[str, str]:
    """Part what is read from the question in the last line."""
    body, _, question = content.rpartition("\n")
    return body, question


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# --- training conversations -------------------------------------------------------------------


def test_demo_conversations_fixed_seed_reads_as_written():
    lines = [
        f"{turn['role']}: {turn['content']}"
        for conversation in demo_conversations(3, seed=3)
        for turn in conversation
    ]
    assert "\n".join(lines) == WORKED_EXAMPLE


def test_demo_conversations_equal_seed_gives_equal_conversations():
    first = list(demo_conversations(30, seed=SEED))
    assert first == list(demo_conversations(30, seed=SEED))
    assert first[:10] == list(demo_conversations(10, seed=SEED))
    assert not set(map(str, first)) & set(map(str, demo_conversations(30, seed=SEED + 1)))


def test_demo_conversations_are_readable_and_alternate():
    for conversation in demo_conversations(300, seed=SEED):
        messages = read_messages(conversation, where="demo")
        roles = [message.role for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_demo_conversations_answers_are_wholly_accepted_by_the_grammar():
    for conversation in demo_conversations(500, seed=SEED):
        for answer in said(conversation, "assistant"):
            found = share_accepted(answer)
            assert found.num_sentences == found.num_accepted > 0, answer


def test_demo_conversations_are_of_every_kind():
    conversations = list(demo_conversations(500, seed=SEED))
    openings = [conversation[0]["content"] for conversation in conversations]
    assert any("Who are you?" in opening for opening in openings)
    assert any("a story about" in opening for opening in openings)
    assert any(re.search(r"\.\n.+\?$", opening) for opening in openings)
    assert sum(len(conversation) > 2 for conversation in conversations) > 150


def test_demo_conversations_nearly_all_fit_the_demo_context(tmp_path):
    documents = (demo_document(row, shard=0, seed=SEED).record["text"] for row in range(2_000))
    config = TokenizerConfig(vocab_size=VOCAB_SIZE, sample_bytes=1_000_000)
    train_bpe((text for text in documents if text), config=config, destination=tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    lengths = [
        len(conversation_ids(read_messages(conversation, where="demo"), tokenizer))
        for conversation in demo_conversations(600, seed=SEED)
    ]
    assert sum(length > CONTEXT_TOKENS for length in lengths) <= 0.01 * len(lengths)


# --- held-out conversations -------------------------------------------------------------------


def is_held_out(body: str) -> bool:
    return zlib.crc32(body.encode()) % 16 == 0


def test_demo_conversations_hold_no_held_out_story():
    conversations = list(demo_conversations(1_000, seed=SEED))
    read = {split_off(text)[0] for turns in conversations for text in said(turns, "user")}
    told = {text for turns in conversations for text in said(turns, "assistant")}
    stories = [text for text in read | told if len(text.split()) >= 55]
    assert len(stories) > 500
    assert not any(map(is_held_out, stories))


def test_held_out_conversations_ask_one_question_of_a_held_out_story():
    for user, assistant in held_out_conversations(100, seed=SEED):
        body, question = split_off(user["content"])
        assert is_held_out(body)
        assert len(body.split()) >= 55
        assert share_accepted(body).share == 1.0
        assert is_sentence(question)
        assert question.endswith("?")
        assert assistant["role"] == "assistant"
        assert is_right_answer(assistant["content"], expected=assistant["content"])


def test_held_out_conversations_answers_may_be_copied_from_the_message():
    for user, assistant in held_out_conversations(200, seed=SEED):
        known = set(words_of(user["content"])) | {"in", "a", "an", "the", "was", "is"}
        new = set(words_of(assistant["content"])) - known
        assert len(new) <= 1, (new, assistant)  # "lives" where the question has "live"


# --- preferences ------------------------------------------------------------------------------


def test_demo_preferences_worse_answer_differs_in_what_was_asked():
    for prompt, chosen, rejected in demo_preferences(1_000, seed=SEED):
        assert prompt[-1]["role"] == "user"
        assert chosen != rejected
        assert is_sentence(chosen)
        assert is_sentence(rejected)
        assert len(words_of(chosen)) - len(words_of(rejected)) in range(-4, 5)
        question = prompt[-1]["content"].rsplit("\n", 1)[-1]
        asked = set(words_of(question)) & set(words_of(chosen))
        assert asked <= set(words_of(rejected)), (question, chosen, rejected)


def test_demo_preferences_worse_answer_often_names_what_the_story_tells():
    pairs = list(demo_preferences(500, seed=SEED))
    near = 0
    for prompt, chosen, rejected in pairs:
        known = set(words_of(prompt[0]["content"]))
        near += set(words_of(rejected)) - set(words_of(chosen)) <= known
    assert near > 0.2 * len(pairs)  # few would by chance


def test_demo_preferences_equal_seed_gives_equal_pairs():
    first = list(demo_preferences(20, seed=SEED))
    assert first == list(demo_preferences(20, seed=SEED))
    assert first != list(demo_preferences(20, seed=SEED + 1))


@pytest.mark.parametrize("draw", [demo_conversations, held_out_conversations, demo_preferences])
def test_demo_conversations_negative_number_names_what_to_do(draw):
    with pytest.raises(ConfigError, match="cannot be negative") as error:
        draw(-1, seed=SEED)
    assert "found: -1" in str(error.value)
    assert "ask for none or more" in str(error.value)
