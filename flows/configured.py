"""Flows whose parameters are a preset and one group of overrides per config.

``configured_flow`` gives a Prefect flow its typed parameters from the config class, so that the UI
shows a form and a command line can set any field; the flow's body only wires stages.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from prefect import Flow
from prefect.runtime import flow_run

from flows.settings.presets import ChatModelConfig, PrepareConfig, Preset, PretrainConfig
from flows.settings.resolve import (
    ChatModelT,
    ConfigT,
    all_optional,
    dialled_chat,
    groups_of,
    resolve,
    single_settings,
)
from model.core.artifact import Manifest
from model.core.errors import ConfigError
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline, task_runner
from tasks.engine.stage import data_root, let_logs_through
from tasks.planning.base_checkpoint import find_base
from tasks.planning.budget import Horizon, measured_horizon, planned_horizon
from tasks.planning.checkpoints import check_checkpoints
from tasks.planning.plan import Plan, make_plan, outcome_text
from tasks.reporting.run import report_mlflow_run
from tasks.stages.read_chats import pinned_chats
from tasks.stages.read_preferences import pinned_preferences
from tasks.tracking.run import TrackedPipeline, pipeline_run

logger = logging.getLogger(__name__)

Dag = Callable[[Pipeline, Any], Any]


@dataclass(frozen=True)
class Session:
    """One run of a flow: the stages it adds to, and where it reports to."""

    pipeline: Pipeline
    tracking: TrackedPipeline
    plan: Plan
    name: str

    @contextmanager
    def part(self, flow: str, config: PrepareConfig) -> Iterator[Session]:
        """Go on with a part of this run that reports to an MLflow run within this one's.

        Args:
            flow: whose work the part is.
        """
        with pipeline_run(
            experiment=config.run.experiment,
            name=f"{self.name}-{flow}",
            config=config,
            flow=flow,
            parent_run_id=self.tracking.run_id,
        ) as tracking:
            pipeline = self.pipeline.reporting_to(tracking.run_id)
            yield Session(pipeline, tracking, self.plan, f"{self.name}-{flow}")

    @property
    def store(self) -> ArtifactStore:
        """Where the artifacts lie."""
        return self.pipeline.store

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all stages, when the last of them is made."""
        return [self.store.read_manifest(step.artifact) for step in self.pipeline.finish()]


Body = Callable[[Session, Any], None]


def configured_flow(config: type[PrepareConfig], *, dag: Dag) -> Callable[[Body], Flow[..., None]]:
    """Return a decorator that makes a Prefect flow of a body ``(session, config)``.

    The flow resolves its parameters, plans the DAG, refuses a run that the disk cannot hold, opens
    the tracking run and hands both to the body.

    Args:
        config: the config class; each of its groups becomes a flow parameter.
        dag: the walk over the stages, for the plan.
    """

    def decorate(body: Body) -> Flow[..., None]:
        def run(preset: Preset, **groups: Any) -> None:
            _run(body, dag, resolve(preset, kind=config, **groups))

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(run, name, getattr(body, name))
        signature = _signature(config)
        setattr(run, "__signature__", signature)  # noqa: B010
        run.__annotations__ = {
            name: parameter.annotation for name, parameter in signature.parameters.items()
        }
        return Flow(run, name=body.__name__)

    return decorate


def plan_flow(dag: Dag, config: PrepareConfig, store: ArtifactStore) -> Plan:
    """Walk the DAG without running anything and return what a run would do.

    Raises:
        ConfigError: the run would come to what this machine has not, or to a checkpoint that will
            not be there.
    """
    _require_harness(config)
    config = settled(config, store)
    config, horizons = _with_horizons(config, store, horizon_of=planned_horizon)
    pipeline = Pipeline(store, config.run)
    dag(pipeline, config)
    notes = [horizon.text for horizon in horizons]
    if not horizons:  # what a budget buys is known when the speed is measured, before the run
        notes += check_checkpoints(list(pipeline.steps.values()), store)
    return make_plan(pipeline, vocab_size=config.tokenizer.vocab_size, notes=notes)


def _run(body: Body, dag: Dag, config: PrepareConfig) -> None:
    let_logs_through()
    store = ArtifactStore(data_root())
    config = settled(config, store)
    config, horizons = _with_horizons(config, store, horizon_of=measured_horizon)
    plan = plan_flow(dag, config, store)
    logger.info("plan:\n%s", "\n".join([plan.text(), *(item.text for item in horizons)]))
    plan.require_disk(store.root)
    name = f"{config.preset}-{flow_run.name or 'run'}"
    with (
        pipeline_run(
            experiment=config.run.experiment, name=name, config=config, flow=body.__name__
        ) as tracking,
        task_runner(config.run) as runner,
    ):
        pipeline = Pipeline(store, config.run, runner=runner, tracking_run_id=tracking.run_id)
        measured = [item.measurement for item in horizons if item.measurement]
        home = store.link_run(name, [*measured, *(step.artifact for step in plan.steps)])
        (home / "config.json").write_text(config.model_dump_json(indent=1))
        body(Session(pipeline, tracking, plan, name), config)
        report_mlflow_run(tracking)
        logger.info("done:\n%s", outcome_text(pipeline.finish(), store))


def _require_harness(config: PrepareConfig) -> None:
    """Refuse a run whose last stage cannot start, before its first does."""
    if not isinstance(config, ChatModelConfig) or config.evaluation.harness == "off":
        return
    if not find_spec("lm_eval"):
        raise ConfigError(
            "lm-evaluation-harness is not installed",
            expected="the package lm_eval",
            found="no such package in this environment",
            where="evaluation.harness=on",
            fix="install requirements.lock, or set evaluation.harness=off",
        )


def settled(config: ConfigT, store: ArtifactStore) -> ConfigT:
    """Return a config whose names mean the same at every walk, whatever moves meanwhile.

    An alias of the registry becomes the training it stands for, a branch of the hub its commit.
    """
    if not isinstance(config, ChatModelConfig) or not _makes_chat_model(config):
        return config
    update: dict[str, Any] = {"chat": pinned_chats(config.chat)}
    if config.preference.method == "dpo":
        update["preference"] = pinned_preferences(config.preference)
    config = config.model_copy(update=update)
    return _with_base(config, store) if config.finetune.base else config


def _makes_chat_model(config: ChatModelConfig) -> bool:
    return config.then_finetune if isinstance(config, PretrainConfig) else True


def _with_base(config: ChatModelT, store: ArtifactStore) -> ChatModelT:
    """Return the config with its base model as an artifact, and the shape and rates of that."""
    address = config.finetune.base
    base = find_base(address, store)
    found = base.trained.relative_path
    if found != address:
        logger.info("finetune.base: %s is %s", address, found)
    finetune = config.finetune.model_copy(update={"base": found})
    update = {"finetune": finetune, "model": base.model}
    return dialled_chat(config.model_copy(update=update), base.model, base.vocab_size)


def _with_horizons(
    config: PrepareConfig, store: ArtifactStore, *, horizon_of: Callable[..., Horizon]
) -> tuple[PrepareConfig, list[Horizon]]:
    """Return the config with what its budgets buy, if it has any."""
    found: list[Horizon] = []
    if not isinstance(config, ChatModelConfig):
        return config, found
    finetune = config.finetune
    if config.train.budget_minutes:
        vocab_size = config.tokenizer.vocab_size
        found.append(
            horizon_of(config.train, model=config.model, vocab_size=vocab_size, store=store)
        )
        config = config.model_copy(update={"train": found[-1].train})
    if finetune.train.budget_minutes and _makes_chat_model(config):
        vocab_size = config.tokenizer.vocab_size
        if finetune.base:
            vocab_size = find_base(finetune.base, store).vocab_size
        found.append(
            horizon_of(finetune.train, model=config.model, vocab_size=vocab_size, store=store)
        )
        finetune = finetune.model_copy(update={"train": found[-1].train})
        config = config.model_copy(update={"finetune": finetune})
    return config, found


def _signature(config: type[PrepareConfig]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    preset = inspect.Parameter("preset", kind, default="sample", annotation=Preset)
    groups = []
    for name, group in groups_of(config).items():
        twin = all_optional(group)
        groups.append(inspect.Parameter(name, kind, default=twin(), annotation=twin))
    for name in single_settings(config):
        annotation: Any = config.model_fields[name].annotation
        groups.append(inspect.Parameter(name, kind, default=None, annotation=annotation | None))
    return inspect.Signature([preset, *groups])
