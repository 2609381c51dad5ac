"""A small exported model, and a server of it, for tests of generation and serving."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn

from model.config.trained_model import ExportConfig, SamplingConfig
from model.export.hf_writer import export
from model.network.gpt import GPT
from model.serve.app import ServerConfig, create_app
from model.serve.hot_reload import FolderSource, ModelHost, ModelSource
from model.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.support.small_model import random_model
from tests.support.small_tokenizer import VOCAB_SIZE, train_small_tokenizer

TIMEOUT_SECONDS = 60


def write_export(
    folder: Path,
    *,
    seed: int = 1,
    context_tokens: int = 256,
    sampling: SamplingConfig | None = None,
) -> GPT:
    """Export a model whose greedy output is printable ASCII without end."""
    tokenizer = folder.parent / "tokenizer"
    if not tokenizer.exists():
        train_small_tokenizer(tokenizer)
    model = random_model(seed, vocab_size=VOCAB_SIZE, tied=False, context_tokens=context_tokens)
    tokens = Tokenizer.load(tokenizer).token_bytes
    unwanted = [
        index
        for index, token in enumerate(tokens)
        if index < len(SPECIAL_TOKENS) or not (token.isascii() and token.decode().isprintable())
    ]
    with torch.no_grad():
        assert model.lm_head is not None
        model.lm_head.weight[unwanted] = 0  # below the top logit
    config = ExportConfig(gguf="none", sampling=sampling or SamplingConfig())
    export(model, tokenizer, destination=folder, config=config)
    return model


class RunningServer:
    """A server in a thread of this process."""

    def __init__(self, url: str, host: ModelHost) -> None:
        self.url = url
        self.host = host

    @property
    def num_open(self) -> int:
        return self.host.loaded.worker.num_open


@contextmanager
def chat_server(
    source: ModelSource | Path, *, api_key: str | None = None, **config: object
) -> Iterator[RunningServer]:
    if isinstance(source, Path):
        source = FolderSource(source)
    settings = ServerConfig.model_validate({"port": 0} | config)
    app = create_app(source, settings, api_key=api_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started
        try:
            yield RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.host)
        finally:
            server.should_exit = True
            thread.join()


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until a condition that other threads bring about is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "the condition never became true"
        pause.wait(0.01)
