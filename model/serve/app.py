"""An OpenAI-compatible server with a page to talk to, for one exported model.

    python -m model.serve --model <folder of an export>

    POST /v1/chat/completions, /v1/completions    answers, whole or as a stream
    GET  /v1/models                               the model that is served
    GET  /health, /metrics                        for people and Prometheus
    GET  /                                        the page

Requests are written side by side; more than ``max_rows`` wait, more than ``max_waiting`` are sent
away with 429. A client that goes away frees its row. A key in ``$LLM_API_KEY`` guards ``/v1``.
``--model`` also takes ``models:/<name>@<alias>``; without it the newest export below
``$LLM_DATA_ROOT`` is served. When the name comes to mean another version, that one is served.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import Field, ValidationError
from starlette.types import Scope

from model.core.config import Config
from model.core.errors import LLMError
from model.serve.handlers import EventStream, answer_or_leave, start_answering
from model.serve.hot_reload import ModelHost, Served
from model.serve.http_limits import BodyLimit, RequestCounter, add_error_handlers, require_key
from model.serve.metrics import Metrics
from model.serve.model_sources import ModelSource, find_source
from model.serve.openai_api import ApiError, ChatRequest, CompletionRequest

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "LLM_API_KEY"
PAGE = Path(__file__).parent / "static"
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
GRACE_SECONDS = 10  # for answers under way when the server is told to end
CLIENT_LEFT = 499  # nginx's status for it; nobody reads it


class ServerConfig(Config):
    """Where the server listens and what it takes on."""

    host: str = Field(default="127.0.0.1", description="address to listen on; this machine only")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port")
    max_rows: int = Field(default=16, ge=1, le=256, description="texts written side by side")
    max_waiting: int = Field(default=64, ge=0, description="texts that may wait for a row")
    max_body_bytes: int = Field(default=2**20, ge=1024, description="size of a request's body")
    usual_tokens: int = Field(
        default=256, ge=1, description="tokens of an answer where a request names no limit"
    )
    poll_seconds: float = Field(
        default=5.0, gt=0, description="pause between two looks at which version to serve"
    )


def create_app(source: ModelSource, config: ServerConfig, *, api_key: str | None = None) -> FastAPI:
    """Return the application; the model is loaded when it starts.

    Args:
        api_key: wanted from clients of ``/v1``; None: nobody is asked.
    """
    metrics = Metrics()
    host = ModelHost(
        source,
        max_rows=config.max_rows,
        max_waiting=config.max_waiting,
        on_step=metrics.note_step,
    )
    metrics.watch("llm_open_answers", "Answers under way", lambda: host.served.thread.num_open)
    metrics.watch("llm_model_swaps", "Versions taken while running", lambda: host.num_swaps)
    metrics.watch("llm_model_problem", "1 while the source fails", lambda: bool(host.problem))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await host.load()
        watching = asyncio.create_task(host.watch(every_seconds=config.poll_seconds))
        yield
        watching.cancel()
        host.close()

    app = FastAPI(title="LLM from scratch", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.host = host
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(RequestCounter, count=metrics.note_request)
    add_error_handlers(app)
    app.include_router(_api(host, metrics, config), dependencies=[Depends(require_key(api_key))])
    app.include_router(_operations(host, metrics))
    app.mount("/", _Page(directory=PAGE, html=True))
    return app


def _api(host: ModelHost, metrics: Metrics, config: ServerConfig) -> APIRouter:
    api = APIRouter(prefix="/v1")

    async def answer(request: Request, asked: ChatRequest | CompletionRequest) -> Response:
        served = host.served
        _require_model(asked.model, served)
        answering = start_answering(asked, served, metrics, usual_tokens=config.usual_tokens)
        if asked.stream:
            return EventStream(answering)
        whole = await answer_or_leave(request, answering)
        return Response(status_code=CLIENT_LEFT) if whole is None else JSONResponse(whole)

    @api.post("/chat/completions")
    async def chat_completions(request: Request, asked: ChatRequest) -> Response:
        """Return the assistant's next turn."""
        return await answer(request, asked)

    @api.post("/completions")
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        """Return how a text goes on."""
        return await answer(request, asked)

    @api.get("/models")
    async def models() -> dict[str, Any]:
        """Return the list of models: one."""
        return {"object": "list", "data": [_described(host.served)]}

    @api.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Return the model, if it goes by this name."""
        _require_model(name, host.served)
        return _described(host.served)

    return api


def _operations(host: ModelHost, metrics: Metrics) -> APIRouter:
    operations = APIRouter()

    @operations.get("/health")
    async def health() -> dict[str, Any]:
        """Say what is served and what is wrong."""
        served = host.served
        return {
            "status": "degraded" if host.problem else "ok",
            "problem": host.problem,
            "model": served.name,
            "version": served.version,
            "open_answers": served.thread.num_open,
        }

    @operations.get("/metrics")
    async def numbers() -> Response:
        """Return the numbers Prometheus collects."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return operations


def _require_model(name: str, served: Served) -> None:
    if name != served.name:
        raise ApiError(
            f"there is no model {name!r} here; this server has {served.name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _described(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.since,
        "owned_by": "llm-from-scratch",
        "version": served.version,
        "context_tokens": served.pretrained.model.architecture.context_tokens,
        "sampling": served.pretrained.sampling.model_dump(exclude={"seed"}),
    }


class _Page(StaticFiles):
    """The page's files; the browser runs nothing that does not come from here."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


async def serve(source: ModelSource, config: ServerConfig) -> None:
    """Serve until the process is told to end.

    Raises:
        LLMError: the source points nowhere, or its folder cannot be loaded.
    """
    app = create_app(source, config, api_key=os.environ.get(API_KEY_VARIABLE) or None)
    await app.state.host.load()  # here its errors are ours to tell
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    await uvicorn.Server(settings).serve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model the command line names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--model",
        help="folder of an export, or models:/<name>@<alias>; the newest export otherwise",
    )
    for name, known in ServerConfig.model_fields.items():
        text = f"{known.description} ({known.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, default=known.default)
    options = vars(parser.parse_args(arguments))
    source = find_source(options.pop("model"))
    try:
        config = ServerConfig.model_validate(options)
        logger.info("http://%s:%d", config.host, config.port)
        asyncio.run(serve(source, config))
    except (LLMError, ValidationError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0
