"""Stage fit_scaling: the validation score of a ladder of trainings as a curve over compute."""

from __future__ import annotations

from pydantic import Field

from model.config.network import ModelConfig, ModelSize
from model.core.artifact import Manifest
from model.core.config import Config
from model.core.files import write_synced
from model.core.store import Work
from model.eval.scaling_laws import FIT_NAME, LadderPoint, NextRung
from model.train.events import EVENTS_NAME, read_events
from tasks.engine.stage import Share, Stage
from tasks.planning.ladder import num_flops
from tasks.planning.scaling_fit import fit_ladder
from tasks.reporting.plots import scaling_plot, validation_curve

STEP_VERSION = 1
PLOT_NAME = "ladder.png"


class FitScaling(Config):
    """What the curve is fitted for."""

    vocab_size: int = Field(description="of the tokenizer; decides the compute of a token")
    next_size: ModelSize | None = Field(description="size to predict; null after the largest")
    next_tokens: int = Field(default=0, description="its horizon")


def build(work: Work, config: FitScaling, share: Share) -> None:  # noqa: ARG001
    """Write fit.json and its plot."""
    manifests = work.input_manifests("trained")
    points = [ladder_point(item, vocab_size=config.vocab_size) for item in manifests]
    fit = fit_ladder(points, next_rung=_next_rung(config, manifests[0]))
    write_synced(work.path / FIT_NAME, fit.model_dump_json(indent=1).encode())
    curves = {}
    for manifest, directory in zip(manifests, work.inputs("trained"), strict=True):
        events = directory / EVENTS_NAME  # a log, which may be gone
        found = read_events(events) if events.exists() else []
        curves[manifest.artifact.name] = validation_curve(found)
    (work.path / PLOT_NAME).write_bytes(scaling_plot(fit, curves))
    work.logs.add(PLOT_NAME)  # other bytes with another matplotlib, and nothing reads it
    work.counts = {"num_in": len(points), "num_on_frontier": _num_on_frontier(fit.points)}
    work.facts = fit.model_dump(mode="json", include={"form", "why", "curve", "next_rung"})


def ladder_point(manifest: Manifest, *, vocab_size: int) -> LadderPoint:
    """Return a finished training as a point of its ladder."""
    model = model_of(manifest)
    tokens = manifest.counts["tokens"]
    return LadderPoint(
        name=manifest.artifact.name,
        size=model.size,
        num_params=model.architecture(vocab_size).num_params(),
        tokens=tokens,
        flops=num_flops(model, tokens, vocab_size),
        bits_per_byte=manifest.facts["validation_bits_per_byte"],
        is_on_frontier=False,
    )


def model_of(manifest: Manifest) -> ModelConfig:
    """Return the model a training's derivation names."""
    plain = manifest.derivation.config["model"]
    return ModelConfig.model_validate(
        {name: value for name, value in plain.items() if name in ModelConfig.model_fields}
    )


def _next_rung(config: FitScaling, manifest: Manifest) -> NextRung | None:
    if config.next_size is None:
        return None
    model = model_of(manifest).model_copy(update={"size": config.next_size})
    return NextRung(
        size=config.next_size,
        tokens=config.next_tokens,
        flops=num_flops(model, config.next_tokens, config.vocab_size),
        bits_per_byte=None,
        low=None,
        high=None,
    )


def _num_on_frontier(points: tuple[LadderPoint, ...]) -> int:
    return sum(point.is_on_frontier for point in points)


fit_scaling = Stage("fit_scaling", version=STEP_VERSION, build=build, scope="corpus")
