"""Configuration of a run as a whole: machine, ladder, report, published corpus, registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from model.config.network import ModelSize
from model.core.config import RUNTIME_ONLY, Config


class RunConfig(Config):
    """How the pipeline runs on this machine. Nothing here changes a result."""

    task_runner: Annotated[Literal["processes", "threads", "ray", "dask"], RUNTIME_ONLY] = Field(
        default="processes",
        description="what maps shards; ray and dask are optional extras and start a cluster on "
        "this machine, or use the one of RAY_ADDRESS or DASK_SCHEDULER_ADDRESS: its workers need "
        "this project and the data root at the same paths, on shared storage that locks files, "
        "and a Prefect server that they reach",
    )
    workers: Annotated[int, RUNTIME_ONLY] = Field(
        default=0, ge=0, description="shards at once; 0 = one per core"
    )
    memory_gb: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.0,
        ge=0,
        description="memory all data stages may use together; 0 = half of the machine's",
    )
    experiment: Annotated[str, RUNTIME_ONLY] = Field(
        default="llm-from-scratch", min_length=1, description="MLflow experiment"
    )
    dollars_per_hour: Annotated[float, RUNTIME_ONLY] = Field(
        default=0.0, ge=0, description="price of this machine; 0 = no cost is shown"
    )


class SweepConfig(Config):
    """A ladder of trainings on one corpus; each size appears as often as it has horizons."""

    sizes: tuple[ModelSize, ...] = Field(
        default=("27m", "49m", "135m", "375m"),
        min_length=2,
        description="model size of each training, the smallest compute first",
    )
    tokens_per_param: float = Field(
        default=12.0,  # nanochat's default ratio, counted the same way
        gt=0,
        description="horizon of each training in tokens per matrix weight (blocks and head)",
    )
    tokens: tuple[int, ...] = Field(
        default=(),
        description="horizon of each training in tokens, one per size; empty = tokens_per_param",
    )


class ReportConfig(Config):
    """What the corpus report shows."""

    num_examples: int = Field(
        default=3, ge=0, description="texts shown of each reason, pairs of each kind of copies"
    )
    sample_chars: int = Field(
        default=32_000_000,
        gt=0,
        description="text whose words are counted, of the source and of what is left, each",
    )


class CardConfig(Config):
    """What the card of a published corpus says beyond what is known of it."""

    name: str = Field(default="", description="title; empty: made from the source")
    license: str = Field(
        default="",
        description="licence identifier of the Hugging Face Hub; empty: the source's, if known",
    )


class RegistryConfig(Config):
    """How a finished model is filed."""

    name: str = Field(
        default="llm-base",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="registered model",
    )
    alias: str = Field(default="candidate", min_length=1, description="alias the new version takes")
    promote: Literal["no_worse", "never"] = Field(
        default="no_worse",
        description="no_worse: the new version becomes the champion if it is no worse than the one "
        "there is, or the first; never: promotion is left to the flow promote",
    )
