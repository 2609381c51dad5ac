"""Stage fit_scaling: scaling fit, validation score over compute, of a ladder of trainings."""

from __future__ import annotations

from pydantic import Field

from model.config.network import ModelConfig, ModelSize
from model.config.outputs import TrainModelOutputs
from model.core.artifact import Manifest
from model.core.config import Config
from model.core.files import write_synced
from model.core.outputs import Counts, Facts, OutputFile, Outputs
from model.core.store import Work
from model.eval.scaling_laws import FIT_NAME, LadderPoint, NextRung, ScalingCurve, ScalingFit
from model.train.events import read_events
from tasks.engine.stage import ResourceShare, Stage
from tasks.planning.ladder import num_flops
from tasks.planning.scaling_fit import fit_ladder
from tasks.reporting.plots import scaling_plot, validation_curve

STEP_VERSION = 1


class FitScalingCounts(Counts):
    """Trainings, and those of them that the curve goes through."""

    num_in: int
    num_on_frontier: int


class FitScalingFacts(Facts):
    """The curve, why it has its form, and what it predicts of the next training."""

    form: str
    why: str
    curve: ScalingCurve | None
    next_rung: NextRung | None


class FitScalingOutputs(Outputs[FitScalingCounts, FitScalingFacts], stage="fit_scaling"):
    """A fitted curve."""

    fit = OutputFile(FIT_NAME)  # the whole fit, as JSON
    plot = OutputFile("ladder.png")  # A PNG of it; a log, which may be deleted

    def read_fit(self) -> ScalingFit:
        """Return the whole fit."""
        return ScalingFit.model_validate_json(self.fit.read_bytes())


class FitScaling(Config):
    """What the curve is fitted for."""

    vocab_size: int = Field(description="of the tokenizer; decides the compute of a token")
    next_size: ModelSize | None = Field(description="size to predict; null after the largest")
    next_tokens: int = Field(default=0, description="its horizon")


def build(work: Work, config: FitScaling, share: ResourceShare) -> None:  # noqa: ARG001
    """Write fit.json and its plot."""
    outputs = FitScalingOutputs(work.path)
    manifests = work.input_manifests("trained")
    points = [ladder_point(item, vocab_size=config.vocab_size) for item in manifests]
    fit = fit_ladder(points, next_rung=_next_rung(config, manifests[0]))
    write_synced(outputs.fit, fit.model_dump_json(indent=1).encode())
    curves = {}
    for trained in TrainModelOutputs.inputs(work, "trained"):
        events = trained.events  # a log, which may be gone
        found = read_events(events) if events.exists() else []
        curves[trained.manifest.artifact.name] = validation_curve(found)
    outputs.plot.write_bytes(scaling_plot(fit, curves))
    work.logs.add(outputs.plot.name)  # other bytes with another matplotlib, and nothing reads it
    FitScalingOutputs.record(
        work,
        FitScalingCounts(num_in=len(points), num_on_frontier=_num_on_frontier(fit.points)),
        FitScalingFacts(form=fit.form, why=fit.why, curve=fit.curve, next_rung=fit.next_rung),
    )


def ladder_point(manifest: Manifest, *, vocab_size: int) -> LadderPoint:
    """Return a finished training as a point of its ladder."""
    model = model_of(manifest)
    tokens = TrainModelOutputs.counts_of(manifest).tokens
    bits_per_byte = TrainModelOutputs.facts_of(manifest).validation_bits_per_byte
    assert bits_per_byte is not None, "a ladder is trained on text"
    return LadderPoint(
        name=manifest.artifact.name,
        size=model.size,
        num_params=model.architecture(vocab_size).num_params(),
        tokens=tokens,
        flops=num_flops(model, tokens, vocab_size),
        bits_per_byte=bits_per_byte,
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


fit_scaling = Stage(FitScalingOutputs, version=STEP_VERSION, build=build, scope="corpus")
