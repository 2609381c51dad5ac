"""The shapes of OpenAI's API that the server speaks: requests, answers, stream events, errors.

Requests are checked here; fields that would change the answer and that we cannot honour are
refused rather than passed over, and so is what looks like a slip of the pen; others that we do not
know are ignored, as clients send many.
Beside OpenAI's own fields, ``top_k``, ``min_p`` and ``repetition_penalty`` are understood.
"""

from __future__ import annotations

import difflib
import json
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from model.inference.sampling import MAX_REPETITION_PENALTY, MAX_TEMPERATURE, Sampling
from model.text.chat_template import Message

Kind = Literal["chat.completion", "text_completion"]

# Field -> values that ask for nothing; any other value cannot be honoured.
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
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
NAMING_THEIR_FIELD = ("not_offered", "misspelt")  # kinds of faults whose context has the param
MISSPELT_RATIO = 0.87  # max_token is 0.95 like max_tokens; min_tokens, which others have, is 0.8
OF_OTHERS = ("models",)  # fields of other servers that are spelt nearly like one here
MAX_UNKNOWN_FIELDS = 100  # each is compared with all that are known


class ApiError(Exception):
    """A request that is answered with an error in OpenAI's form.

    Args:
        status: of HTTP.
        kind: the error's ``type``.
        param: the field at fault.
        code: a word that programs can tell errors by.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI writes it."""
        fields = {"message": self.message, "type": self.kind, "param": self.param}
        return {"error": fields | {"code": self.code}}


class StreamOptions(BaseModel):
    """What a stream tells beside the text."""

    include_usage: bool = False


class BaseRequest(BaseModel):
    """What both kinds of requests have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=16)
    stop: str | list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=MAX_REPETITION_PENALTY)
    seed: int | None = Field(default=None, ge=0, lt=2**62)

    @field_validator("stream", "n", mode="before")
    @classmethod
    def _usual_for_null(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[info.field_name or ""].default if value is None else value

    @model_validator(mode="after")
    def _refuse_what_is_not_offered(self) -> Self:
        extra = self.model_extra or {}
        if len(extra) > MAX_UNKNOWN_FIELDS:
            raise ValueError(f"a request has at most {MAX_UNKNOWN_FIELDS} fields unknown here")
        for name, value in extra.items():
            if name not in NOT_OFFERED:
                self._refuse_if_misspelt(name)
            elif value not in NOT_OFFERED[name]:
                raise not_offered(name, value)
        if len(self.stops) > 4 or any(not 0 < len(stop) <= 100 for stop in self.stops):
            raise ValueError("stop takes up to 4 texts of 1 to 100 characters")
        return self

    @classmethod
    def _refuse_if_misspelt(cls, name: str) -> None:
        known = [*cls.model_fields, *NOT_OFFERED]
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=MISSPELT_RATIO)
        if nearest and name not in OF_OTHERS:
            raise PydanticCustomError(
                "misspelt",
                "{param} is no field of this request: did you mean {nearest}?",
                {"param": name, "nearest": nearest[0]},
            )

    @property
    def stops(self) -> list[str]:
        """Return the texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Say whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, usual: Sampling) -> Sampling:
        """Return how tokens are drawn: as asked for, else as is usual for the model."""
        asked = self.model_dump(include=set(Sampling.model_fields), exclude_none=True)
        return usual.model_copy(update=asked)


def not_offered(name: str, value: Any) -> PydanticCustomError:
    """Return the error for a field that would change the answer and that we cannot honour."""
    neutral = [json.dumps(item) for item in NOT_OFFERED[name] if item is not None]
    advice = f", or send {' or '.join(neutral)}" if neutral else ""
    return PydanticCustomError(
        "not_offered",
        "{param} is not offered by this server (found: {found}): leave it out{advice}",
        {"param": name, "found": json.dumps(value)[:100], "advice": advice},
    )


class TextPart(BaseModel):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn as a client sends it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)] | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> Message:
        """Return the turn as the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        return Message(role=role, content="".join(parts))


class ChatRequest(BaseRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def wanted_tokens(self) -> int | None:
        """Return how long the answer may be; its newer name wins."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(BaseRequest):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=1)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts, one or many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]

    @property
    def wanted_tokens(self) -> int | None:
        """Return how long the text may be."""
        return self.max_tokens


class Usage:
    """Tokens read and written."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0

    def body(self) -> dict[str, int]:
        """Return the counts as OpenAI writes them."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Reply:
    """The envelope of one request's answers: the same id, time and model in each part.

    Args:
        kind: the ``object`` of the whole answer.
    """

    def __init__(self, kind: Kind, *, model: str) -> None:
        self.kind = kind
        prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self._fields = {"created": int(time.time()), "model": model}

    def whole(self, texts: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """Return the answer at once.

        Args:
            texts: text and finish reason of each choice.
        """
        choices = [
            self._choice(index, self._content("message", text, role="assistant"), finish)
            for index, (text, finish) in enumerate(texts)
        ]
        return self._body(self.kind, choices) | {"usage": usage.body()}

    def opening(self, index: int) -> bytes:
        """Return the event that names the speaker; raw text has none."""
        if self.kind == "text_completion":
            return b""
        return self._event(
            [self._choice(index, self._content("delta", "", role="assistant"), None)]
        )

    def piece(self, index: int, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._event([self._choice(index, self._content("delta", text), None)])

    def closing(self, index: int, finish: str) -> bytes:
        """Return the event that ends a choice."""
        last = {"delta": {}} if self.kind == "chat.completion" else {"text": ""}
        return self._event([self._choice(index, last, finish)])

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the counts of tokens."""
        return event(self._body(self._part, []) | {"usage": usage.body()})

    @property
    def _part(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat.completion" else self.kind

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        return event(self._body(self._part, choices))

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, **self._fields, "choices": choices}

    def _content(self, key: str, text: str, **role: str) -> dict[str, Any]:
        is_chat = self.kind == "chat.completion"
        return {key: {**role, "content": text}} if is_chat else {"text": text}

    @staticmethod
    def _choice(index: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {"index": index, **content, "logprobs": None, "finish_reason": finish}


DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
