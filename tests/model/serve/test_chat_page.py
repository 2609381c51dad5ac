"""The server's page in a real browser: type, stream, stop, reload, settings, faults."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from model.config.trained_model import SamplingConfig
from model.inference.batching import BatchEngine, GenerationRequest
from tests.support.small_export import RunningServer, chat_server, eventually, write_export

pytestmark = pytest.mark.slow

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
LONG = {"temperature": 0, "repetition_penalty": 1, "max_tokens": 8000}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("page") / "tiny"
    greedy = SamplingConfig(temperature=0, repetition_penalty=1)  # drawn, an answer may end soon
    write_export(directory, context_tokens=8192, sampling=greedy)
    return directory


@pytest.fixture
def server(folder) -> Iterator[RunningServer]:
    with chat_server(folder, api_key=None, usual_tokens=40) as running:
        yield running


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.url)
    yield page
    assert problems == []
    context.close()


def _stored(page: Page) -> dict:
    return json.loads(page.evaluate("localStorage.getItem('llm-from-scratch')"))


def _set(page: Page, **settings: object) -> None:
    page.keyboard.press("Alt+s")
    for name, value in settings.items():
        page.locator(f"#settings [name={name}]").fill(str(value))
    page.keyboard.press("Escape")


def _ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_question_is_answered_by_keyboard_alone_and_survives_a_reload(page):
    expect(page.locator("#model")).to_have_text("tiny · 8192 tokens of context")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("Hello <b>there</b>")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("friend")
    page.keyboard.press("Enter")
    expect(page.locator(".user .text")).to_have_text("Hello <b>there</b>\nfriend")
    expect(page.locator(".assistant .note")).to_contain_text("40 tokens")
    answer = page.locator(".assistant .text").inner_text()
    assert len(answer) > 20
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.reload()
    expect(page.locator(".assistant .text")).to_have_text(answer)
    expect(page.locator(".user .text")).to_have_text("Hello <b>there</b>\nfriend")
    _ask(page, "And then?")
    expect(page.locator(".assistant .note")).to_have_count(2)
    page.keyboard.press("Alt+n")
    expect(page.locator(".turn")).to_have_count(0)
    assert _stored(page)["turns"] == []


@pytest.fixture
def steps_allowed(monkeypatch) -> Iterator[threading.Semaphore]:
    """Engine steps are allowed one by one, so that no answer ends too soon."""
    allowed = threading.Semaphore(0)
    step = BatchEngine.step

    def step_when_allowed(engine: BatchEngine) -> list[tuple[GenerationRequest, int | None]]:
        allowed.acquire()
        return step(engine)

    monkeypatch.setattr(BatchEngine, "step", step_when_allowed)
    yield allowed
    allowed.release(100_000)


@pytest.mark.parametrize("by", ["button", "key"])
def test_answer_streams_and_stops_on_request(page, server, steps_allowed, by):
    _set(page, **LONG)
    _ask(page, "Go on for long")
    text = page.locator(".assistant .text")
    steps_allowed.release(40)
    expect(text).not_to_be_empty()
    expect(page.locator("#stop")).to_be_visible()
    assert server.num_open == 1
    first = text.inner_text()
    steps_allowed.release(400)
    page.wait_for_function(
        "before => document.querySelector('.assistant .text').textContent.length > before",
        arg=len(first),
    )
    if by == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".assistant .note")).to_have_text("stopped")
    expect(page.locator("#send")).to_be_visible()
    steps_allowed.release(10)
    eventually(lambda: server.num_open == 0)
    assert text.inner_text().startswith(first)
    assert _stored(page)["turns"][1]["content"].startswith(first)


def test_reload_during_an_answer_keeps_its_text(page, server):
    _set(page, **LONG)
    _ask(page, "Go on for long")
    text = page.locator(".assistant .text")
    expect(text).not_to_be_empty()
    page.reload()
    expect(page.locator(".assistant .note")).to_have_text("interrupted by leaving the page")
    expect(text).not_to_be_empty()
    eventually(lambda: server.num_open == 0)


def test_settings_reach_the_server_and_are_kept(page):
    _set(page, temperature=0, repetition_penalty=1, max_tokens=5, system="Be brief.")
    with page.expect_request("**/v1/chat/completions") as sent:
        _ask(page, "Hi")
    body = sent.value.post_data_json
    assert (body["temperature"], body["max_tokens"]) == (0, 5)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "top_p" not in body
    expect(page.locator(".assistant .note")).to_contain_text("5 tokens")
    page.reload()
    page.get_by_role("button", name="Settings").click()
    assert page.locator("[name=max_tokens]").input_value() == "5"
    assert page.locator("[name=top_p]").get_attribute("placeholder") == "0.9"
    page.get_by_role("button", name="Model's defaults").click()
    assert page.locator("[name=max_tokens]").input_value() == ""
    assert page.locator("[name=system]").input_value() == "Be brief."


def test_theme_follows_the_system_or_the_setting(page):
    shade = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(shade) < 60
    page.emulate_media(color_scheme="light")
    assert page.evaluate(shade) > 200
    page.keyboard.press("Alt+s")
    page.locator("[name=theme]").select_option("dark")
    assert page.evaluate(shade) < 60
    page.reload()
    assert page.evaluate(shade) < 60


def test_error_of_the_server_is_shown_and_the_conversation_continues(page):
    _set(page, max_tokens=100_000)
    _ask(page, "Hi")
    expect(page.get_by_role("alert")).to_contain_text("context of 8192 tokens")
    _set(page, max_tokens=5)
    _ask(page, "Hi again")
    expect(page.locator(".assistant .note").last).to_contain_text("5 tokens")


def test_missing_key_is_reported_and_a_set_one_is_sent(browser, folder):
    context = browser.new_context()
    with chat_server(folder, api_key="secret") as server:
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#model")).to_contain_text("this server requires its key")
        _set(page, key="secret", max_tokens=5)
        expect(page.locator("#model")).to_contain_text("tiny")
        _ask(page, "Hi")
        expect(page.locator(".assistant .note")).to_contain_text("5 tokens")
    context.close()
