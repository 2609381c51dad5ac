"""Middleware of the server: body limit, Prometheus metrics, API key, errors in OpenAI's form."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.core.errors import LLMError
from model.serve.openai_api import FAULTS_WITH_PARAM, ApiError

DRAINED_BYTES = 64 * 2**20  # read of a body that is too large, so that its sender reads our answer
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class BodyLimit:
    """Refuse bodies of more bytes than a limit, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, is_whole = await self._read(receive)
        if body is None:
            if not is_whole:  # the client disconnected, or sends without end
                return
            error = ApiError(
                f"the body is larger than this server takes: {self._max_bytes} bytes", status=413
            )
            await error_response(error)(scope, receive, send)
            return
        is_read = False

        async def replay() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> tuple[bytes | None, bool]:
        """Return the body, or None if it is too large, and whether all of it was read."""
        parts: list[bytes] = []
        num_bytes = 0
        while num_bytes <= DRAINED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            num_bytes += len(message.get("body", b""))
            if num_bytes <= self._max_bytes:
                parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return (b"".join(parts) if num_bytes <= self._max_bytes else None), True
        return None, False


class RequestCounter:
    """Count answered requests: ``count`` is called with route and status of each."""

    def __init__(self, app: ASGIApp, *, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self._count(getattr(route, "path", "other"), message["status"])
            await send(message)

        await self._app(scope, receive, counting_send)


class Metrics:
    """Prometheus metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        seconds = partial(Histogram, registry=self._registry, buckets=SECONDS)
        self.requests = counter("llm_requests", "Requests answered", ["path", "status"])
        self.prompt_tokens = counter("llm_prompt_tokens", "Prompt tokens")
        self.completion_tokens = counter("llm_written_tokens", "Completion tokens")
        self.cancelled = counter("llm_cancelled_answers", "Completions whose client disconnected")
        self.steps = counter("llm_steps", "Steps of the batch engine")
        self.rows = counter("llm_step_rows", "Requests in the batch, summed over steps")
        self.first_token = seconds("llm_first_token_seconds", "Time to first token")
        self.duration = seconds("llm_answer_seconds", "Time to the last token")

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read at every scrape."""
        Gauge(name, help_text, registry=self._registry).set_function(read)

    def count_request(self, path: str, status: int) -> None:
        """Count an answered request."""
        self.requests.labels(path, str(status)).inc()

    def count_step(self, num_rows: int) -> None:
        """Count a step of the batch engine."""
        self.steps.inc()
        self.rows.inc(num_rows)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def error_response(error: ApiError) -> JSONResponse:
    """Return an error response in OpenAI's form."""
    headers = {"retry-after": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def require_key(key: str | None) -> Callable[[Request], None]:
    """Return a check that a request carries the key; without a key, all are accepted."""

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if key and not hmac.compare_digest(given, key.encode()):
            raise ApiError(
                "this server requires its key: send the header `Authorization: Bearer <key>`",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
            )

    return check


def add_error_handlers(app: FastAPI) -> None:
    """Register handlers that answer every error of an app in OpenAI's form."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(LLMError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)


async def _api_error(_: Request, exc: Exception) -> JSONResponse:
    return error_response(exc if isinstance(exc, ApiError) else ApiError(str(exc)))


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    sent_as = request.headers.get("content-type")
    if not _is_json(sent_as):
        return error_response(
            ApiError(
                "the body was not read as JSON: send the header `Content-Type: application/json` "
                f"(found: {sent_as or 'no such header'})",
                status=415,
            )
        )
    # A union reports every branch it tried; the deepest fault is the relevant one.
    fault = max(exc.errors(), key=lambda item: len(item["loc"]))
    if fault["type"] == "json_invalid":
        cause = fault.get("ctx", {}).get("error", fault["msg"])
        return error_response(ApiError(f"the body is not JSON: {cause}"))
    if fault["type"] in FAULTS_WITH_PARAM:
        return error_response(ApiError(fault["msg"], param=fault["ctx"]["param"]))
    param = ".".join(str(part) for part in fault["loc"] if _is_field(part)) or None
    return error_response(ApiError(f"{param or 'body'}: {fault['msg']}", param=param))


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind.startswith("application/") and kind.endswith(("/json", "+json"))


def _is_field(part: str | int) -> bool:
    """Whether a part is a field or an index, not pydantic's name of a branch like ``list[int]``."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("body", "str"))


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    message = f"{request.method} {request.url.path}: {exc.detail}"
    return error_response(ApiError(message, status=exc.status_code))


async def _internal_error(_: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001
    message = "the server failed; its log says why"
    return error_response(ApiError(message, status=500, kind="server_error"))
