"""model.serve under load: many streaming clients at once, some of them killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import openai
import pytest

from tests.support.small_export import RunningServer, chat_server, eventually, write_export

NUM_CLIENTS = 16
KILLED_CLIENT = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
ask = {"model": "tiny", "messages": [{"role": "user", "content": "Go on"}], "max_tokens": 8000}
for event in client.chat.completions.create(stream=True, temperature=0, **ask):
    print("begun", flush=True)
"""


async def _stream(client: openai.AsyncOpenAI, index: int, num_tokens: int) -> tuple[str, int]:
    events = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": f"This is client {index}." * (1 + index % 3)}],
        max_tokens=num_tokens,
        temperature=0,
        extra_body={"repetition_penalty": 1},
        stream=True,
        stream_options={"include_usage": True},
    )
    text, num_tokens_out = "", 0
    async for event in events:
        if event.choices:
            text += event.choices[0].delta.content or ""
        if event.usage:
            num_tokens_out = event.usage.completion_tokens
    return text, num_tokens_out


def _concurrently(server: RunningServer, num_tokens: int) -> list[tuple[str, int]]:
    async def run() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            clients = (_stream(client, index, num_tokens) for index in range(NUM_CLIENTS))
            return await asyncio.gather(*clients)

    return asyncio.run(run())


def _sequentially(server: RunningServer, num_tokens: int) -> list[tuple[str, int]]:
    async def run() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return [await _stream(client, index, num_tokens) for index in range(NUM_CLIENTS)]

    return asyncio.run(run())


@pytest.mark.parametrize("max_rows", [16, 3])
def test_sixteen_clients_at_once_get_the_outputs_each_gets_alone(tmp_path, max_rows):
    write_export(tmp_path / "tiny")
    with chat_server(tmp_path / "tiny", max_rows=max_rows) as server:
        together = _concurrently(server, 40)
        assert [num_tokens_out for _, num_tokens_out in together] == [40] * NUM_CLIENTS
        assert together == _sequentially(server, 40)
        eventually(lambda: server.num_open == 0)
        numbers = httpx.get(f"{server.url}/metrics").text
        assert f"llm_written_tokens_total {2.0 * 40 * NUM_CLIENTS}" in numbers


@pytest.mark.slow
def test_killed_clients_free_their_slots(tmp_path):
    write_export(tmp_path / "tiny", context_tokens=16_384)
    with chat_server(tmp_path / "tiny", max_rows=4) as server:
        command = [sys.executable, "-c", KILLED_CLIENT, f"{server.url}/v1"]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
        for client in clients:
            assert client.stdout
            assert client.stdout.readline() == b"begun\n"
        assert server.num_open == 4
        for client in clients:
            client.kill()
            client.communicate()
        eventually(lambda: server.num_open == 0)
        together = _concurrently(server, 20)
        assert [num_tokens_out for _, num_tokens_out in together] == [20] * NUM_CLIENTS
