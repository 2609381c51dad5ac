"""The exported folder as an MLflow model, which ``mlflow models serve`` serves as text.

    mlflow models serve -m models:/llm-chat@champion --env-manager local -p 5001
    curl localhost:5001/invocations -H 'Content-Type: application/json' \
        -d '{"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 50}'

A models-from-code file: MLflow runs it, with a copy of ``model/`` beside it; no module imports it.
A request has the fields of ``InvocationRequest``; the response has OpenAI's form. Several at once:
``{"inputs": [request, ...]}``.
"""

# ruff: noqa: ANN001, ANN201 - MLflow would take annotations of predict for a schema

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from pydantic import Field, ValidationError, model_validator

from model.config.trained_model import SamplingConfig
from model.core.config import Config
from model.core.errors import ConfigError
from model.export.hf_reader import load_exported
from model.inference.generate import generate, prompt_ids
from model.text.chat_template import Message
from model.text.conversation import conversation_ids
from model.text.tokenizer import Tokenizer

FOLDER = "folder"  # name of MLflow's artifact
SAMPLING = SamplingConfig()


class InvocationRequest(Config):
    """A conversation or prompt, and sampling settings."""

    messages: tuple[Message, ...] = Field(default=(), description="conversation to continue")
    prompt: str = Field(default="", description="instead: text to continue")
    max_tokens: int = Field(default=128, gt=0, le=8192, description="limit of generated tokens")
    temperature: float = Field(default=SAMPLING.temperature, ge=0, description="0 = greedy")
    top_k: int = Field(default=SAMPLING.top_k, ge=0, description="0 = all")
    seed: int = Field(default=0, ge=0, lt=2**63, description="the same seed, the same answer")

    @model_validator(mode="after")
    def _has_one_start(self) -> InvocationRequest:
        if bool(self.messages) == bool(self.prompt):
            raise ValueError("give messages, or a prompt, and not both")
        return self


class TextModel(PythonModel):
    """The MLflow model; requests are answered one after another."""

    def load_context(self, context: Any) -> None:
        """Load network and tokenizer."""
        folder = Path(context.artifacts[FOLDER])
        self.model = load_exported(folder).eval()
        self.tokenizer = Tokenizer.load(folder)

    def predict(self, model_input, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the response to one request, or a list of responses."""
        if isinstance(model_input, Mapping):
            return self.answer(read_request({**model_input, **(params or {})}))
        records = model_input.to_dict("records") if hasattr(model_input, "to_dict") else model_input
        return [self.answer(read_request({**record, **(params or {})})) for record in records]

    def answer(self, request: InvocationRequest) -> dict[str, Any]:
        """Generate the answer, in the form of OpenAI's responses."""
        if request.messages:
            ids = conversation_ids(request.messages, self.tokenizer)
        else:
            ids = prompt_ids(request.prompt, self.tokenizer, style="text")
        output_ids = generate(
            self.model,
            ids,
            num_tokens=request.max_tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            seed=request.seed,
            stop_ids=self.tokenizer.stop_ids,
        )
        text = self.tokenizer.decode(output_ids)
        message = {"message": {"role": "assistant", "content": text}}
        content = message if request.messages else {"text": text}
        reason = "length" if len(output_ids) == request.max_tokens else "stop"
        return {
            "object": "chat.completion" if request.messages else "text_completion",
            "choices": [{"index": 0, **content, "finish_reason": reason}],
            "usage": {
                "prompt_tokens": len(ids),
                "completion_tokens": len(output_ids),
                "total_tokens": len(ids) + len(output_ids),
            },
        }


def read_request(record: Mapping[str, Any]) -> InvocationRequest:
    """Return a checked request."""
    try:
        return InvocationRequest.model_validate(record)
    except ValidationError as exc:
        raise ConfigError(
            "the request cannot be answered",
            expected=", ".join(InvocationRequest.model_fields),
            found=str(exc).replace("\n", "; "),
            fix="correct the named field",
        ) from exc


set_model(TextModel())
