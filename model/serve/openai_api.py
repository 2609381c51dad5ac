"""OpenAI's API as the server implements it: requests, responses, stream events, errors.

Requests are validated here. Fields that would change the answer and are not supported are refused,
and so are misspelt ones; other unknown fields are ignored, as clients send many. Beside OpenAI's
own fields, ``top_k``, ``min_p`` and ``repetition_penalty`` are supported.
"""

from __future__ import annotations

import difflib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from model.inference.sampling import MAX_REPETITION_PENALTY, MAX_TEMPERATURE, Sampling
from model.text.chat_template import Message

# Unsupported field -> neutral values; any other value is refused.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "web_search_options": (None,),
}
FAULTS_WITH_PARAM = ("unsupported", "misspelt")  # kinds of faults whose context has the param
MISSPELT_RATIO = 0.87  # max_token is 0.95 like max_tokens; min_tokens, which others have, is 0.8
OTHER_SERVERS_FIELDS = ("models",)  # spelt nearly like one here
MAX_UNKNOWN_FIELDS = 100  # each is compared with all known ones


@dataclass(eq=False)
class ApiError(Exception):
    """An error response in OpenAI's form."""

    message: str
    status: int = 400  # of HTTP
    kind: str = "invalid_request_error"  # the error's ``type``
    param: str | None = None  # the field at fault
    code: str | None = None  # machine-readable cause

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        fields = {"message": self.message, "type": self.kind, "param": self.param}
        return {"error": fields | {"code": self.code}}


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class BaseRequest(BaseModel):
    """Fields of chat and completion requests alike."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=16)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=MAX_REPETITION_PENALTY)
    seed: int | None = Field(default=None, ge=0, lt=2**62)

    @field_validator("stream", "n", mode="before")
    @classmethod
    def _default_for_null(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[info.field_name or ""].default if value is None else value

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        extra = self.model_extra or {}
        if len(extra) > MAX_UNKNOWN_FIELDS:
            raise ValueError(f"a request has at most {MAX_UNKNOWN_FIELDS} fields unknown here")
        for name, value in extra.items():
            if name not in UNSUPPORTED:
                self._refuse_if_misspelt(name)
            elif value not in UNSUPPORTED[name]:
                raise unsupported(name, value)
        if len(self.stop_strings) > 4 or any(
            not 0 < len(stop) <= 100 for stop in self.stop_strings
        ):
            raise ValueError("stop takes up to 4 texts of 1 to 100 characters")
        return self

    @classmethod
    def _refuse_if_misspelt(cls, name: str) -> None:
        known = [*cls.model_fields, *UNSUPPORTED]
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=MISSPELT_RATIO)
        if nearest and name not in OTHER_SERVERS_FIELDS:
            raise PydanticCustomError(
                "misspelt",
                "{param} is no field of this request: did you mean {nearest}?",
                {"param": name, "nearest": nearest[0]},
            )

    @property
    def token_limit(self) -> int | None:
        """Maximum number of generated tokens."""
        return self.max_tokens

    @property
    def stop_strings(self) -> list[str]:
        """Texts before which the output ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, default: Sampling) -> Sampling:
        """Return the requested sampling, with the model's defaults for unset fields."""
        given = self.model_dump(include=set(Sampling.model_fields), exclude_none=True)
        return default.model_copy(update=given)


def unsupported(name: str, value: Any) -> PydanticCustomError:
    """Return the error for an unsupported field with a value that is not neutral."""
    neutral = [json.dumps(item) for item in UNSUPPORTED[name] if item is not None]
    advice = f", or send {' or '.join(neutral)}" if neutral else ""
    return PydanticCustomError(
        "unsupported",
        "{param} is not supported by this server (found: {found}): leave it out{advice}",
        {"param": name, "found": json.dumps(value)[:100], "advice": advice},
    )


class TextPart(BaseModel):
    """A part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)] | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> Message:
        """Return the message in the form of the chat template."""
        role = "system" if self.role == "developer" else self.role
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return Message(role=role, content="".join(parts))


class ChatRequest(BaseRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def token_limit(self) -> int | None:
        """Maximum number of generated tokens; the newer name wins."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(BaseRequest):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]


@dataclass
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int = 0

    def body(self) -> dict[str, int]:
        """Return the JSON object."""
        return asdict(self) | {"total_tokens": self.prompt_tokens + self.completion_tokens}


class ResponseFormatter:
    """Builds the response or stream events of one request, with the same id, time and model."""

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self.is_chat = is_chat
        self._kind = "chat.completion" if is_chat else "text_completion"
        self._chunk_kind = "chat.completion.chunk" if is_chat else "text_completion"
        self._id = f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._fields = {"created": int(time.time()), "model": model}

    def response(
        self, texts: Sequence[str], finish_reasons: Sequence[str], usage: Usage
    ) -> dict[str, Any]:
        """Return the whole response, with a text and a finish reason for each choice."""
        choices = []
        for index, (text, reason) in enumerate(zip(texts, finish_reasons, strict=True)):
            message = {"message": {"role": "assistant", "content": text}}
            choices.append(_choice(index, message if self.is_chat else {"text": text}, reason))
        return self._body(self._kind, choices) | {"usage": usage.body()}

    def event(
        self, index: int, delta: dict[str, str], *, finish_reason: str | None = None
    ) -> bytes:
        """Return the stream event of a choice; ``delta`` holds its role and content, if any."""
        content = {"delta": delta} if self.is_chat else {"text": delta.get("content", "")}
        return sse_event(self._body(self._chunk_kind, [_choice(index, content, finish_reason)]))

    def usage_event(self, usage: Usage) -> bytes:
        """Return the event with the token counts."""
        return sse_event(self._body(self._chunk_kind, []) | {"usage": usage.body()})

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, **self._fields, "choices": choices}


def _choice(index: int, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}


DONE = b"data: [DONE]\n\n"


def sse_event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
