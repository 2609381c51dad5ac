"""The server with one streaming client and with sixteen: tokens per second, and the first token.

    python -m benchmarks.bench_server [--size 27m] [--tokens 128] [--clients 16] [--rounds 3]

The server is a process of its own, as ``make serve`` starts it; the clients are OpenAI's, in this
process. A round measures one client and then all of them. Sampling is as the model's folder
recommends: temperature 0.7, top-p 0.9, repetition penalty 1.1. The table is Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import openai

from benchmarks.exported_model import exported_model
from benchmarks.machine import describe
from model.config.network import GEOMETRIES

START_TRIES = 600
TRY_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """What one client saw."""

    num_tokens: int
    first_seconds: float
    seconds: float


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="27m", choices=GEOMETRIES)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(describe(), "\n")
    with exported_model(options.size) as folder, served(folder) as url:
        rates: dict[int, list[float]] = {1: [], options.clients: []}
        firsts: dict[int, list[float]] = {1: [], options.clients: []}
        for _ in range(options.rounds):
            for num_clients in rates:
                answers, seconds = asyncio.run(ask(url, num_clients, options.tokens))
                rates[num_clients].append(sum(item.num_tokens for item in answers) / seconds)
                firsts[num_clients] += [item.first_seconds for item in answers]
        print("| clients | tokens/s | of one client's | first token, median | 95th percentile |")
        print("|---|---|---|---|---|")
        alone = statistics.median(rates[1])
        for num_clients, found in rates.items():
            rate, waits = statistics.median(found), sorted(firsts[num_clients])
            late = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
            print(
                f"| {num_clients} | {rate:.0f} | {rate / alone:.2f} "
                f"| {statistics.median(waits) * 1000:.0f} ms | {late * 1000:.0f} ms |"
            )


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run a server of an exported folder and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "model.serve", "--model", str(folder), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        for _ in range(START_TRIES):
            with contextlib.suppress(URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(TRY_SECONDS)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


async def ask(url: str, num_clients: int, num_tokens: int) -> tuple[list[Answer], float]:
    """Have clients stream at once; return what each saw, and the seconds until all were done."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=None) as client:
        model = (await client.models.list()).data[0].id
        started = time.perf_counter()
        clients = (stream(client, model, index, num_tokens) for index in range(num_clients))
        return await asyncio.gather(*clients), time.perf_counter() - started


async def stream(client: openai.AsyncOpenAI, model: str, index: int, num_tokens: int) -> Answer:
    """Read one answer as it comes."""
    started, first = time.perf_counter(), 0.0
    events = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Number {index}: tell me of the sea."}],
        max_tokens=num_tokens,
        seed=index,
        stream=True,
        stream_options={"include_usage": True},
    )
    num_written = 0
    async for event in events:
        if event.choices and event.choices[0].delta.content and not first:
            first = time.perf_counter() - started
        if event.usage:
            num_written = event.usage.completion_tokens
    return Answer(num_written, first, time.perf_counter() - started)


if __name__ == "__main__":
    main()
