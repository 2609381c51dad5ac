"""Registered models for tests: small pipelines, each one version of one name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.settings.presets import demo
from tasks.config.run import RegistryConfig
from tasks.stages.register_model import register_model
from tasks.tracking.run import pipeline_run
from tests.support.small_pipeline import SmallPipeline, make_small_pipeline


@dataclass(frozen=True)
class Registered:
    """A registered model and the pipelines of its versions, first version first."""

    name: str
    pipelines: tuple[SmallPipeline, ...]


def registered_versions(name: str, directory: Path, *, num_versions: int) -> Registered:
    """Register versions 1, 2, … of a model in the configured store; the last is the candidate."""
    pipelines = tuple(
        make_small_pipeline(directory / f"v{number}", salt=str(number))
        for number in range(1, num_versions + 1)
    )
    registry = RegistryConfig(name=name)
    with pipeline_run(experiment=name, name="demo", config=demo(), flow="pretrain") as tracked:
        for small in pipelines:
            register_model.fn(
                tracked,
                small.artifact("export_model"),
                scores=[small.artifact("score_model")],
                registry=registry,
                store=small.store,
            )
    return Registered(name, pipelines)
