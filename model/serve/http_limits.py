"""What stands around the server's answers: sizes, counts, the key, and errors in OpenAI's form."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.core.errors import LLMError
from model.serve.openai_api import NAMING_THEIR_FIELD, ApiError

READ_AND_DROPPED_BYTES = (
    64 * 2**20
)  # of a body that is too large, so that its sender reads our answer


class BodyLimit:
    """Refuse bodies of more bytes than a limit, told or not told in advance.

    Args:
        app: what the other requests go to.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, is_whole = await self._read(receive)
        if body is None:
            if not is_whole:  # nobody reads an answer: the client left, or sends without end
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
        while num_bytes <= READ_AND_DROPPED_BYTES:
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
    """Count answered requests by route and status.

    Args:
        count: called with both, once for each request.
    """

    def __init__(self, app: ASGIApp, *, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self._count(getattr(route, "path", "other"), message["status"])
            await send(message)

        await self._app(scope, receive, noting)


def error_response(error: ApiError) -> JSONResponse:
    """Return an error as OpenAI sends it."""
    headers = {"retry-after": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def require_key(key: str | None) -> Callable[[Request], None]:
    """Return a check that a request carries the key; without a key everybody may ask."""

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if key and not hmac.compare_digest(given, key.encode()):
            raise ApiError(
                "this server wants its key: send the header `Authorization: Bearer <key>`",
                status=401,
                kind="authentication_error",
                code="invalid_api_key",
            )

    return check


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of an app answered in OpenAI's form."""
    app.add_exception_handler(ApiError, _of_ours)
    app.add_exception_handler(LLMError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_a_field)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_a_bug)


async def _of_ours(_: Request, exc: Exception) -> JSONResponse:
    return error_response(exc if isinstance(exc, ApiError) else ApiError(str(exc)))


async def _of_a_field(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    faults = exc.errors()
    sent_as = request.headers.get("content-type")
    if not _is_json(sent_as):
        return error_response(
            ApiError(
                "the body was not read as JSON: send the header `Content-Type: application/json` "
                f"(found: {sent_as or 'no such header'})",
                status=415,
            )
        )
    # A union reports every branch it tried; the fault that went deepest is the one meant.
    fault = max(faults, key=lambda item: len(item["loc"]))
    place = [str(part) for part in fault["loc"] if _is_field(part)]
    if fault["type"] == "json_invalid":
        return error_response(ApiError(f"the body is not JSON: {_cause(fault)}"))
    if fault["type"] in NAMING_THEIR_FIELD:
        return error_response(ApiError(fault["msg"], param=fault["ctx"]["param"]))
    param = ".".join(place) or None
    return error_response(ApiError(f"{param or 'body'}: {fault['msg']}", param=param))


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _is_field(part: str | int) -> bool:
    """Tell a field or an index from pydantic's name of a union's branch, such as ``list[int]``."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("body", "str"))


def _cause(fault: dict[str, Any]) -> str:
    return str(fault.get("ctx", {}).get("error", fault["msg"]))


async def _of_http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    message = f"{request.method} {request.url.path}: {exc.detail}"
    return error_response(ApiError(message, status=exc.status_code))


async def _of_a_bug(_: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001
    message = "the server failed; its log says why"
    return error_response(ApiError(message, status=500, kind="server_error"))
