"""FastAPI application: OpenAI-compatible API and chat page of one exported model.

    POST /v1/chat/completions, /v1/completions    responses, whole or streamed
    GET  /v1/models                               the loaded model
    GET  /health, /metrics                        for people and Prometheus
    GET  /                                        the chat page

Requests are batched continuously in ``max_rows`` slots; at most ``max_waiting`` more wait, others
are refused with 429. A client that disconnects frees its slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from starlette.types import Scope

from model.core.config import Config
from model.serve.handlers import EventStream, complete_or_cancel, start_completion
from model.serve.hot_reload import LoadedModel, ModelHost, ModelSource
from model.serve.middleware import (
    BodyLimit,
    Metrics,
    RequestCounter,
    add_error_handlers,
    require_key,
)
from model.serve.openai_api import ApiError, ChatRequest, CompletionRequest

PAGE = Path(__file__).parent / "static"
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
CLIENT_CLOSED_REQUEST = 499  # nginx's status for it; nobody reads it


class ServerConfig(Config):
    """Address and limits of the server."""

    host: str = Field(default="127.0.0.1", description="address to listen on; this machine only")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port")
    max_rows: int = Field(default=16, ge=1, le=256, description="slots: texts generated at once")
    max_waiting: int = Field(default=64, ge=0, description="texts that may wait for a slot")
    max_body_bytes: int = Field(default=2**20, ge=1024, description="largest body of a request")
    usual_tokens: int = Field(
        default=256, ge=1, description="token limit of requests that set none"
    )
    poll_seconds: float = Field(
        default=5.0, gt=0, description="interval of checks for a new version"
    )


def create_app(source: ModelSource, config: ServerConfig, *, api_key: str | None = None) -> FastAPI:
    """Return the application; the model is loaded when it starts.

    Args:
        api_key: required from clients of ``/v1``; None: no key.
    """
    metrics = Metrics()
    host = ModelHost(
        source,
        num_slots=config.max_rows,
        max_waiting=config.max_waiting,
        on_step=metrics.count_step,
    )
    metrics.watch("llm_open_answers", "Open requests", lambda: host.loaded.worker.num_open)
    metrics.watch("llm_model_swaps", "Versions loaded while running", lambda: host.num_swaps)
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
    app.add_middleware(RequestCounter, count=metrics.count_request)
    add_error_handlers(app)
    app.include_router(_api(host, metrics, config), dependencies=[Depends(require_key(api_key))])
    app.include_router(_operations(host, metrics))
    app.mount("/", _Page(directory=PAGE, html=True))
    return app


def _api(host: ModelHost, metrics: Metrics, config: ServerConfig) -> APIRouter:
    api = APIRouter(prefix="/v1")

    async def complete(request: Request, body: ChatRequest | CompletionRequest) -> Response:
        loaded = host.loaded
        _require_model(body.model, loaded)
        completion = start_completion(body, loaded, metrics, default_tokens=config.usual_tokens)
        if body.stream:
            return EventStream(completion)
        whole = await complete_or_cancel(request, completion)
        return Response(status_code=CLIENT_CLOSED_REQUEST) if whole is None else JSONResponse(whole)

    @api.post("/chat/completions")
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Return the next message of the assistant."""
        return await complete(request, body)

    @api.post("/completions")
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Return the continuation of a text."""
        return await complete(request, body)

    @api.get("/models")
    async def models() -> dict[str, Any]:
        """Return the list of models: one."""
        return {"object": "list", "data": [_describe(host.loaded)]}

    @api.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Return the model of this name."""
        _require_model(name, host.loaded)
        return _describe(host.loaded)

    return api


def _operations(host: ModelHost, metrics: Metrics) -> APIRouter:
    operations = APIRouter()

    @operations.get("/health")
    async def health() -> dict[str, Any]:
        """Return the loaded version and the problem of its source, if any."""
        loaded = host.loaded
        return {
            "status": "degraded" if host.problem else "ok",
            "problem": host.problem,
            "model": loaded.name,
            "version": loaded.version,
            "open_answers": loaded.worker.num_open,
        }

    @operations.get("/metrics")
    async def prometheus() -> Response:
        """Return the metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return operations


def _require_model(name: str, loaded: LoadedModel) -> None:
    if name != loaded.name:
        raise ApiError(
            f"there is no model {name!r} here; this server has {loaded.name!r}",
            status=404,
            param="model",
            code="model_not_found",
        )


def _describe(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "id": loaded.name,
        "object": "model",
        "created": loaded.since,
        "owned_by": "llm-from-scratch",
        "version": loaded.version,
        "context_tokens": loaded.pretrained.model.architecture.context_tokens,
        "sampling": loaded.pretrained.sampling.model_dump(exclude={"seed"}),
    }


class _Page(StaticFiles):
    """Static files of the chat page, with a content security policy for this origin alone."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response
