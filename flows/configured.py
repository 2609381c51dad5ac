"""Flows whose parameters are a preset and one group of overrides for each group of settings.

``ConfiguredFlow`` gives a Prefect flow its typed parameters from the config class, so that the UI
shows a form and a command line can set any field; the body of a flow only wires stages.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import Flow
from prefect.runtime import flow_run

from flows.server import prefect_api
from flows.settings.cli import Command, user_errors
from flows.settings.config import PrepareConfig, Preset
from flows.settings.overrides import all_optional, groups_of, merged_config, single_settings
from flows.settings.resolve import ResolvedRun, resolve_config
from model.core.artifact import Manifest
from model.core.store import ArtifactStore
from tasks.engine.pipeline import Pipeline, silence_stderr_at_exit, task_runner
from tasks.engine.stage import data_root, let_logs_through
from tasks.planning.checkpoints import check_checkpoints
from tasks.planning.plan import Plan, make_plan, outcome_text, settings_text
from tasks.reporting.run import report_mlflow_run
from tasks.tracking.run import TrackedPipeline, pipeline_run

logger = logging.getLogger(__name__)

Dag = Callable[[Pipeline, ResolvedRun[Any]], Any]


@dataclass(frozen=True)
class Session:
    """One run of a flow: the stages it adds to, and where it reports to."""

    pipeline: Pipeline
    tracking: TrackedPipeline
    plan: Plan
    name: str

    @contextmanager
    def nested(self, flow: str, config: PrepareConfig) -> Iterator[Session]:
        """Continue in an MLflow run within this one's.

        Args:
            flow: whose work follows.
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


Body = Callable[[Session, ResolvedRun[Any]], None]


@dataclass(frozen=True)
class ConfiguredFlow:
    """A flow over a resolved run."""

    kind: type[PrepareConfig]  # the config class; each of its groups becomes a flow parameter
    dag: Dag  # the walk over the stages, for the plan
    body: Body  # the same walk, run and reported; its name and docstring are the flow's

    @property
    def name(self) -> str:
        """Name of the flow, its module and its deployments."""
        return self.body.__name__.removeprefix("run_")

    def prefect_flow(self, config: PrepareConfig | None = None) -> Flow[..., None]:
        """Return the Prefect flow.

        Args:
            config: the merged config, where the command line has it already; else the flow merges
                its parameters.
        """

        def run(preset: Preset, **groups: Any) -> None:
            self._run(config or merged_config(preset, groups, kind=self.kind))

        signature = _signature(self.kind)
        run.__name__ = run.__qualname__ = self.name
        run.__module__, run.__doc__ = self.body.__module__, self.body.__doc__
        setattr(run, "__signature__", signature)  # noqa: B010
        run.__annotations__ = {
            name: parameter.annotation for name, parameter in signature.parameters.items()
        }
        return Flow(run, name=self.name)

    def plan(self, run: ResolvedRun[Any], store: ArtifactStore) -> Plan:
        """Walk the DAG without running anything and return what a run would do.

        Raises:
            ConfigError: a checkpoint to score will not be there.
        """
        pipeline = Pipeline(store, run.config.run)
        self.dag(pipeline, run)
        notes = [horizon.text for horizon in run.horizons]
        if all(horizon.measurement for horizon in run.horizons):  # else steps are not known yet
            notes += check_checkpoints(list(pipeline.steps.values()), store)
        return make_plan(pipeline, vocab_size=run.config.tokenizer.vocab_size, notes=notes)

    def _run(self, config: PrepareConfig) -> None:
        let_logs_through()
        store = ArtifactStore(data_root())
        run = resolve_config(config, store=store, measure=True)
        plan = self.plan(run, store)
        logger.info("plan:\n%s", plan.text())
        plan.require_disk(store.root)
        settings = run.config.run
        name = f"{run.config.preset}-{flow_run.name or 'run'}"
        with (
            pipeline_run(
                experiment=settings.experiment, name=name, config=run.config, flow=self.name
            ) as tracking,
            task_runner(settings) as runner,
        ):
            pipeline = Pipeline(store, settings, runner=runner, tracking_run_id=tracking.run_id)
            measured = [item.measurement for item in run.horizons if item.measurement]
            home = store.link_run(name, [*measured, *(step.artifact for step in plan.steps)])
            (home / "config.json").write_text(run.config.model_dump_json(indent=1))
            self.body(Session(pipeline, tracking, plan, name), run)
            report_mlflow_run(tracking)
            logger.info("done:\n%s", outcome_text(pipeline.finish(), store))


def run_command(flow: ConfiguredFlow, command: Command[Any]) -> None:
    """Run a flow, or plan it with ``--dry-run``; exit with 2 for an error its user can fix."""
    silence_stderr_at_exit()
    with user_errors():
        if command.dry_run:
            store = ArtifactStore(data_root())
            run = resolve_config(command.config, store=store)
            plan = flow.plan(run, store)
            reasons = [plan.reasons_text()] if command.why else []
            text = "\n".join([settings_text(run.config), plan.text(), *reasons])
            sys.stdout.write(f"{text}\n")
        else:
            with prefect_api():
                flow.prefect_flow(command.config)(command.preset, **command.overrides)


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
