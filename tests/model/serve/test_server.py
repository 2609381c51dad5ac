"""model.serve, driven by OpenAI's client: completions, streams, counts, errors, hot reload."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from model.core.errors import ArtifactError
from model.serve.__main__ import main
from model.text.chat_template import Message
from tests.support.small_export import RunningServer, chat_server, eventually, write_export

CHAT = [{"role": "user", "content": "The cat sat on"}]
GREEDY = {"temperature": 0, "extra_body": {"repetition_penalty": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "tiny"
    write_export(directory)
    return directory


@pytest.fixture(scope="module")
def server(folder) -> Iterator[RunningServer]:
    with chat_server(folder, max_rows=4, max_waiting=4, poll_seconds=600) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with _client(server) as made:
        yield made


def _client(server: RunningServer, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def _expected_text(folder: Path, prompt: str | list[Message], num_tokens: int) -> str:
    """What transformers writes greedily with the same folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if isinstance(prompt, str):
        ids = tokenizer(f"<|endoftext|>{prompt}", return_tensors="pt")
    else:
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    model = AutoModelForCausalLM.from_pretrained(folder)
    greedy = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, repetition_penalty=1.0)
    output = model.generate(**ids, generation_config=greedy)
    return tokenizer.decode(output[0, ids["input_ids"].shape[1] :])


def test_chat_completion_equals_transformers_and_counts_tokens(client, folder):
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=20, **GREEDY)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == _expected_text(folder, CHAT, 20)
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == 20 + answer.usage.prompt_tokens
    assert answer.model == "tiny"


def test_chat_stream_has_the_text_of_the_whole_response(client):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 20, **GREEDY}
    whole = client.chat.completions.create(**body)
    options = {"include_usage": True}
    events = list(client.chat.completions.create(**body, stream=True, stream_options=options))
    assert len({event.id for event in events}) == 1
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices == []
    assert events[-1].usage == whole.usage
    pieces = [event.choices[0].delta.content or "" for event in events[:-1]]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(bool(piece) for piece in pieces) > 5
    finishes = [event.choices[0].finish_reason for event in events[:-1]]
    assert finishes == [None] * (len(finishes) - 1) + ["length"]


def test_completion_continues_the_raw_text(client, folder):
    text = "In 1984 there were"
    body = {"model": "tiny", "prompt": text, "max_tokens": 12, **GREEDY}
    answer = client.completions.create(**body)
    assert answer.choices[0].text == _expected_text(folder, text, 12)
    pieces = [event.choices[0].text for event in client.completions.create(**body, stream=True)]
    assert "".join(pieces) == answer.choices[0].text


def test_completion_of_ids_and_of_several_prompts(client, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    body = {"model": "tiny", "max_tokens": 8, **GREEDY}
    ids = tokenizer("<|endoftext|>The dog")["input_ids"]
    by_ids = client.completions.create(prompt=ids, **body)
    both = client.completions.create(prompt=["The dog", "The cat"], n=2, **body)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == by_ids.choices[0].text
    assert both.choices[2].text == both.choices[3].text
    assert both.usage.completion_tokens == 32
    stream = client.completions.create(prompt=["The dog", "The cat"], n=2, stream=True, **body)
    texts = [""] * 4
    for event in stream:
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == [choice.text for choice in both.choices]


def test_seed_repeats_an_answer_and_choices_differ(client):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 20, "n": 2, "temperature": 1.5}
    first = client.chat.completions.create(seed=1, **body)
    again = client.chat.completions.create(seed=1, **body)
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert texts[0] != texts[1]


def test_stop_string_ends_the_output(client):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 30, **GREEDY}
    text = client.chat.completions.create(**body).choices[0].message.content
    stop = text[10:13]
    choice = client.chat.completions.create(stop=[stop], **body).choices[0]
    assert choice.message.content == text.partition(stop)[0]
    assert choice.finish_reason == "stop"


def test_models_are_listed_and_found(client):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.models.retrieve("gpt-4")


def test_answer_longer_than_the_context_ends_there(client):
    answer = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=255, **GREEDY)
    assert answer.usage.total_tokens == 256
    assert answer.choices[0].finish_reason == "length"


def test_long_conversation_drops_its_oldest_turns(client):
    turns = [{"role": "user", "content": f"number {index}"} for index in range(200)]
    answer = client.chat.completions.create(model="tiny", messages=turns, max_tokens=64, **GREEDY)
    assert 150 < answer.usage.prompt_tokens <= 192


def test_prompt_longer_than_the_context_is_truncated_to_its_end(client):
    answer = client.completions.create(model="tiny", prompt="word " * 900, max_tokens=16, **GREEDY)
    assert answer.usage.prompt_tokens == 240


BAD_FIELDS = [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**9}, "context of 256 tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "word " * 300}]}, "longer than the context"),
    (
        {"messages": [{"role": "user", "content": "lone \ud800"}]},
        "messages.0.content: Input should be a valid",
    ),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 17}, "n:"),
    ({"seed": -1}, "seed"),
    ({"stop": ["a"] * 5}, "stop takes up to 4"),
    ({"stop": [""]}, "stop takes"),
    ({"tools": [{"type": "function"}]}, "tools is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ({"logprobs": True}, "logprobs is not supported"),
    ({"frequency_penalty": 0.5}, "(found: 0.5): leave it out, or send 0"),
    ({"presence_penalty": -1}, "presence_penalty is not supported"),
    ({"logit_bias": {"5": 10}}, "leave it out, or send {}"),
    ({"modalities": ["text", "audio"]}, 'or send ["text"]'),
    ({"audio": {"voice": "any"}}, "leave it out"),
]
# What clients send that want nothing of it.
NEUTRAL = {
    "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "n": None, "stream": None,
    "user": "somebody", "stop": None, "seed": None, "temperature": None, "top_p": None,
    "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False,
    "top_logprobs": None, "stream_options": None, "modalities": ["text"], "store": False,
    "metadata": None, "parallel_tool_calls": True, "service_tier": "auto",
}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_field_is_refused_in_openais_form(server, changes, words):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 4} | changes
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]
    assert server.num_open == 0


def test_field_that_is_not_supported_is_named_as_the_param(server):
    body = {"model": "tiny", "messages": CHAT, "frequency_penalty": 0.5}
    error = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == "frequency_penalty"


def test_misspelt_field_is_refused_with_the_nearest_one(server):
    chat = {"model": "tiny", "messages": CHAT}
    for misspelt, meant in [
        ("max_token", "max_tokens"),
        ("Temprature", "temperature"),
        ("frequency_penality", "frequency_penalty"),
    ]:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=chat | {misspelt: 1})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == misspelt
        assert f"did you mean {meant}?" in error["message"]


def test_request_with_very_many_unknown_fields_is_refused(server):
    body = {"model": "tiny", "messages": CHAT} | {f"field {number}": 0 for number in range(101)}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "at most 100 fields" in answer.json()["error"]["message"]


def test_fields_of_other_servers_are_ignored(server):
    others = {"min_tokens": 1, "user": "me", "store": False, "metadata": {}, "models": ["tiny"]}
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 2, "repetition_penalty_range": 9}
    body |= others
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


def test_standard_fields_with_neutral_values_are_accepted(server):
    for nulls in ({}, dict.fromkeys(NEUTRAL)):
        body = {"model": "tiny", "messages": CHAT, "max_tokens": 2} | NEUTRAL | nulls
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"]) == 1


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_body_without_json_content_type_is_refused(server, kind):
    body = json.dumps({"model": "tiny", "messages": CHAT, "max_tokens": 2}).encode()
    headers = {"content-type": kind} if kind else {}
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 415
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "Content-Type: application/json" in error["message"]
    assert (kind or "no such header") in error["message"]


@pytest.mark.parametrize("prompt", [[], "x\ud800", [5, 400], [-1], [[]], ["a"] * 17, None])
def test_bad_prompt_is_refused(server, prompt):
    answer = httpx.post(
        f"{server.url}/v1/completions",
        content=json.dumps({"model": "tiny", "prompt": prompt}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"\xff\xfe", b"null"])
def test_malformed_body_is_refused(server, body):
    headers = {"content-type": "application/json"}
    for path in ("chat/completions", "completions"):
        answer = httpx.post(f"{server.url}/v1/{path}", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_body_of_10_mb_is_refused_with_and_without_content_length(server):
    text = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a" * 10**7}]})
    for content in (text.encode(), iter([text.encode()])):  # an iterator is sent without a length
        answer = httpx.post(f"{server.url}/v1/chat/completions", content=content)
        assert answer.status_code == 413
        assert "1048576 bytes" in answer.json()["error"]["message"]


def test_unknown_model_path_and_method_are_answered_in_openais_form(server, client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    assert caught.value.code == "model_not_found"
    assert "'tiny'" in caught.value.message
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["message"].startswith("GET /v1/")
    assert httpx.get(f"{server.url}/v1/completions").status_code in (404, 405)


def test_health_and_metrics_count_requests(folder):
    with chat_server(folder) as server, _client(server) as client:
        client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=7, **GREEDY)
        health = httpx.get(f"{server.url}/health").json()
        assert (health["status"], health["model"], health["open_answers"]) == ("ok", "tiny", 0)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="tiny", messages=[])
        numbers = httpx.get(f"{server.url}/metrics").text
        assert "llm_written_tokens_total 7.0" in numbers
        assert "llm_steps_total 7.0" in numbers
        path = 'path="/v1/chat/completions"'
        assert f'llm_requests_total{{{path},status="200"}} 1.0' in numbers
        assert f'llm_requests_total{{{path},status="400"}} 1.0' in numbers
        assert "llm_first_token_seconds_count 1.0" in numbers
        assert "llm_open_answers 0.0" in numbers


def test_key_guards_the_api_and_nothing_else(folder):
    with chat_server(folder, api_key="secret") as server:
        for key in ("wrong", ""):
            headers = {"authorization": f"Bearer {key}".strip()}
            answer = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        with _client(server, "wrong") as client, pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="tiny", messages=CHAT)
        with _client(server, "secret") as client:
            assert client.models.list().data
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/").status_code == 200


@pytest.fixture(scope="module")
def long_context_folder(tmp_path_factory) -> Path:
    """A model with slow answers: thousands of tokens fit its context."""
    directory = tmp_path_factory.mktemp("long") / "tiny"
    write_export(directory, context_tokens=8192)
    return directory


def test_full_queue_answers_429_until_a_slot_is_free(long_context_folder):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 8000, **GREEDY}
    with (
        chat_server(long_context_folder, max_rows=1, max_waiting=1) as server,
        _client(server) as client,
    ):
        running = client.chat.completions.create(stream=True, **body)
        waiting = client.chat.completions.create(stream=True, **body)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**body)
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "1"
        running.close()
        eventually(lambda: server.num_open == 1)
        assert next(iter(waiting)).choices
        waiting.close()
        eventually(lambda: server.num_open == 0)
        short = body | {"max_tokens": 2}
        assert client.chat.completions.create(**short).usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_client_frees_its_slot(long_context_folder, stream):
    body = {"model": "tiny", "messages": CHAT, "max_tokens": 8000, "temperature": 0}
    data = json.dumps(body | {"stream": stream}).encode()
    with chat_server(long_context_folder) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            )
            connection.sendall(head.encode() + data)
            if stream:
                connection.recv(100)
            eventually(lambda: server.num_open == 1)
        eventually(lambda: server.num_open == 0)
        numbers = httpx.get(f"{server.url}/metrics").text
        assert "llm_cancelled_answers_total 1.0" in numbers
        (steps,) = [line for line in numbers.splitlines() if line.startswith("llm_steps_total")]
        assert float(steps.split()[1]) < 8000  # it did not generate to the end


class Alias:
    """A model source whose version a test changes."""

    name = "alias"

    def __init__(self, folder: Path) -> None:
        self.folder: Path | None = folder

    def resolve(self) -> tuple[str, Path]:
        if self.folder is None:
            raise ArtifactError("the alias has no version", fix="set it")
        return self.folder.name, self.folder


def _greedy_text(client: openai.OpenAI) -> str:
    body = {"model": "alias", "messages": CHAT, "max_tokens": 20, **GREEDY}
    return client.chat.completions.create(**body).choices[0].message.content


def test_moved_alias_loads_another_model_and_running_requests_end(tmp_path):
    write_export(tmp_path / "one", seed=1, context_tokens=2048)
    write_export(tmp_path / "two", seed=2, context_tokens=2048)
    source = Alias(tmp_path / "one")
    with chat_server(source, poll_seconds=0.01) as server, _client(server) as client:
        first = _greedy_text(client)
        body = {"model": "alias", "messages": CHAT, "max_tokens": 500, "stream": True}
        running = client.chat.completions.create(**body, **GREEDY)
        next(iter(running))
        source.folder = tmp_path / "two"
        eventually(lambda: server.host.loaded.version == "two")
        assert _greedy_text(client) != first
        events = list(running)
        assert events[-1].choices[0].finish_reason == "length"
        text = "".join(event.choices[0].delta.content or "" for event in events)
        assert text.startswith(first)


def test_unresolved_alias_is_reported_and_the_loaded_model_stays(tmp_path):
    write_export(tmp_path / "one")
    source = Alias(tmp_path / "one")
    with chat_server(source, poll_seconds=0.01) as server, _client(server) as client:
        before = _greedy_text(client)
        for problem, folder in (("has no version", None), ("cannot be read", tmp_path / "gone")):
            source.folder = folder
            eventually(lambda words=problem: words in (server.host.problem or ""))
            health = httpx.get(f"{server.url}/health")
            assert health.status_code == 200
            assert health.json()["status"] == "degraded"
            assert problem in health.json()["problem"]
            assert _greedy_text(client) == before
        source.folder = tmp_path / "one"
        eventually(lambda: server.host.problem is None)


def test_model_directory_deleted_under_the_server(tmp_path):
    folder = tmp_path / "tiny"
    write_export(folder)
    with chat_server(folder, poll_seconds=0.01) as server, _client(server) as client:
        shutil.rmtree(folder)
        eventually(lambda: server.host.problem is not None)
        assert "there is no model to serve" in httpx.get(f"{server.url}/health").json()["problem"]
        body = {"model": "tiny", "messages": CHAT, "max_tokens": 3, **GREEDY}
        assert client.chat.completions.create(**body).usage.completion_tokens == 3


def test_failed_step_ends_its_requests_and_the_server_continues(folder, monkeypatch):
    with chat_server(folder) as server, _client(server) as client:
        body = {"model": "tiny", "messages": CHAT, "max_tokens": 3, **GREEDY}
        engine = server.host.loaded.worker._engine
        monkeypatch.setattr(engine.decoder, "prefill", None)  # as when memory runs out
        with pytest.raises(openai.InternalServerError, match="the model failed during generation"):
            client.chat.completions.create(**body)
        assert client.chat.completions.create(**body).usage.completion_tokens == 3


def test_page_and_its_files_are_served_and_refer_to_nothing_outside(server):
    page = httpx.get(f"{server.url}/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("chat.css", "chat.js", "icon.svg"):
        file = httpx.get(f"{server.url}/{name}")
        assert file.status_code == 200
        assert name in page.text
        assert "http" not in file.text.replace("http://www.w3.org/2000/svg", "")
    assert "://" not in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], "there is no model to serve"),
        ([], "no model was exported yet"),
        (["--model", "nowhere", "--port", "99999"], "port"),
    ],
)
def test_main_without_a_model_says_what_to_do(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path))
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
