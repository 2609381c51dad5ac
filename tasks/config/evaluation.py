"""Configuration of evaluation, and the scores that promotion compares."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from model.core.config import RUNTIME_ONLY, Config
from model.core.errors import ConfigError


def _say_what_checkpoints_are(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Take one as well as a list; a union's own errors name every branch it tried."""
    try:
        return check([value] if isinstance(value, str | int) else value)
    except ValidationError as exc:
        raise PydanticCustomError(
            "checkpoints", 'best, last, or a step above 0, or a list such as ["best", 200]'
        ) from exc


ScoredCheckpoints = Annotated[
    tuple[Literal["best", "last"] | Annotated[int, Field(strict=True, gt=0)], ...],
    WrapValidator(_say_what_checkpoints_are),
]


class EvaluationConfig(Config):
    """What a model is measured on beyond bits per byte."""

    sets: Annotated[dict[str, str], RUNTIME_ONLY] = Field(
        default_factory=dict,
        description="blimp, hellaswag, lambada, piqa, arc_easy, winogrande -> its parquet file, or "
        "a folder or glob of them; hub:owner/name@commit:glob for one on the hub",
    )
    max_items: int | None = Field(
        default=None,
        gt=0,
        description="items of each set, spread evenly over it; unset = all",
    )
    num_generations: int = Field(
        default=100, ge=0, description="texts the model writes for judge_texts to judge"
    )
    opening_words: int = Field(
        default=4, gt=0, description="words of a held-out document that such a text continues"
    )
    chat_prompts: tuple[str, ...] = Field(
        default=(
            "Hello! How are you today?",
            "Can you tell me a short story about a dog?",
            "What is the capital of France?",
            "Why is the sky blue?",
            "How do I make a cup of tea?",
            "What do you think about music?",
            "Describe a day at the beach.",
            "Give me three ideas for dinner.",
            "What is a good way to learn a language?",
            "Explain what a river is.",
        ),
        description="messages that a chat model answers, instead of continuing documents",
    )
    num_questions: int = Field(
        default=0, ge=0, description="demo: held-out questions that are put to the model"
    )
    parser: Literal["auto", "off"] = Field(
        default="auto",
        description="auto: link-parser judges the sentences of texts, where it is installed",
    )
    checkpoints: ScoredCheckpoints = Field(
        default=(),
        description="kept checkpoints of the training that are scored as well: best, last, or a "
        "step",
    )
    harness: Literal["off", "on"] = Field(
        default="off",
        description="only off: to score with EleutherAI's lm-evaluation-harness, run its own "
        "command on the exported folder (docs/decisions/020-scoring.md)",
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="seed of the questions")

    @field_validator("harness")
    @classmethod
    def _refuse_harness(cls, value: str) -> str:
        if value == "on":
            raise ConfigError(
                "lm-evaluation-harness is no stage of a run",
                expected="evaluation.harness=off",
                found="evaluation.harness=on",
                where="evaluation.harness",
                fix="leave it out, and after the run score its export: lm_eval --model hf "
                "--model_args pretrained=<data root>/runs/<run>/export_model/<name>/model,"
                "dtype=float32 --tasks hellaswag,piqa (docs/decisions/020-scoring.md)",
            )
        return value


class PinnedScore(Config):
    """A score that a champion's successor must not lose more of than a tolerance."""

    name: str = Field(description="tag of a registered version, fact of the stage that measured it")
    better: Literal["lower", "higher"]
    tolerance: float = Field(ge=0, description="loss that is let pass, in the score's unit")
    data_tag: str = Field(
        default="data.validation_digest",
        description="tag with the digest of what it was measured on: equal ones compare",
    )
    required: bool = Field(
        default=False, description="promotion needs it of both; others count where they compare"
    )


ITEMS_TAG = "data.items."  # + task: digest of its items
PROMPTS_TAG = "data.prompts_digest"  # of what the model was asked to write, and its sampling


def _accuracy(task: str, *, tolerance: float, name: str = "acc") -> PinnedScore:
    return PinnedScore(
        name=f"{task}_{name}", better="higher", tolerance=tolerance, data_tag=f"{ITEMS_TAG}{task}"
    )


# What promotion looks at. Tolerances are choices: what two seeds of one recipe may differ by; of an
# accuracy about two standard errors of a whole set.
PINNED_SCORES = (
    PinnedScore(name="bits_per_byte", better="lower", tolerance=0.005, required=True),
    _accuracy("blimp", tolerance=0.01),
    _accuracy("hellaswag", tolerance=0.01, name="acc_norm"),
    _accuracy("lambada", tolerance=0.015),
    _accuracy("piqa", tolerance=0.025),
    _accuracy("arc_easy", tolerance=0.02),
    _accuracy("winogrande", tolerance=0.03),
    PinnedScore(name="grammar_accepted", better="higher", tolerance=0.03, data_tag=PROMPTS_TAG),
    PinnedScore(name="answer_accuracy", better="higher", tolerance=0.05, data_tag=PROMPTS_TAG),
)
