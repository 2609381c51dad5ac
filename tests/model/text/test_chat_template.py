import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.core.errors import SourceRecordError
from model.text.chat_template import CHAT_TEMPLATE, Message, read_messages, render
from tests.support.small_tokenizer import train_small_tokenizer

messages_strategy = st.lists(
    st.builds(
        Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text(min_size=1)
    ),
    min_size=1,
    max_size=4,
)
CONVERSATION = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="  Hello, {{ name }}!\n\n"),
    Message(role="assistant", content="Hi."),
    Message(role="user", content="Who are you?"),
    Message(role="assistant", content="\nA small model. <b>&amp;</b> "),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    directory = train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return AutoTokenizer.from_pretrained(directory)


def plain(messages):
    return [message.model_dump() for message in messages]


def test_render_one_question_writes_chatml():
    text = render([Message(role="user", content="Hi")], add_generation_prompt=True)
    assert text == "<|endoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_render_with_answer_continues_the_prompt():
    question = Message(role="user", content="Hi")
    answer = Message(role="assistant", content="Hello.")
    prompt = render([question], add_generation_prompt=True)
    assert render([question, answer], add_generation_prompt=False) == (
        prompt + "Hello.<|im_end|>\n"
    )


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_render_conversation_equals_transformers(peer, add_generation_prompt):
    expected = peer.apply_chat_template(
        plain(CONVERSATION), tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert render(CONVERSATION, add_generation_prompt=add_generation_prompt) == expected


@settings(deadline=None)
@given(messages_strategy, st.booleans())
def test_render_any_messages_equals_transformers(peer, messages, add_generation_prompt):
    expected = peer.apply_chat_template(
        plain(messages), tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert render(messages, add_generation_prompt=add_generation_prompt) == expected


@pytest.mark.parametrize("trimmed", [False, True])
def test_chat_template_whatever_trimming_renders_the_same(trimmed):
    marks_removed = CHAT_TEMPLATE.replace("{%- generation %}", "").replace(
        "{%- endgeneration %}", ""
    )
    environment = jinja2.Environment(
        trim_blocks=trimmed, lstrip_blocks=trimmed, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string(marks_removed)
    text = template.render(messages=plain(CONVERSATION), add_generation_prompt=True)
    assert text == render(CONVERSATION, add_generation_prompt=True)


def test_chat_template_generation_marks_cover_what_the_assistant_says(peer):
    encoded = peer.apply_chat_template(
        plain(CONVERSATION), return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [
        token
        for token, is_marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if is_marked
    ]
    said = [turn.content + "<|im_end|>" for turn in CONVERSATION if turn.role == "assistant"]
    assert peer.decode(marked) == "".join(said)


def test_read_messages_good_records_round_trip():
    assert plain(read_messages(plain(CONVERSATION), where="chat.parquet")) == plain(CONVERSATION)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "found: no message"),
        ([{"role": "user", "content": ""}], "content=''"),
        ([{"role": "robot", "content": "Hi"}], "role='robot'"),
        ([{"role": "user"}], "content="),
        ([{"role": "user", "content": None}], "content=None"),
        ([{"role": "user", "content": "Hi", "name": "x"}], "name='x'"),
    ],
)
def test_read_messages_broken_record_raises_naming_it(records, words):
    with pytest.raises(SourceRecordError, match=words):
        read_messages(records, where="chat.parquet, row 7")


def test_read_messages_second_record_broken_names_its_place():
    records = [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Hi"}]
    with pytest.raises(SourceRecordError, match=r"chat\.parquet, row 7, message 1"):
        read_messages(records, where="chat.parquet, row 7")
