"""Settings of a run as the flows resolve them, and its plan."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypeVar

from flows.configured import ConfiguredFlow, Dag
from flows.settings.config import PrepareConfig
from flows.settings.resolve import resolve, resolve_config
from model.core.store import ArtifactStore
from tasks.planning.plan import Plan

ConfigT = TypeVar("ConfigT", bound=PrepareConfig)


def resolved_config(
    preset: str, *, kind: type[ConfigT], store: ArtifactStore | None = None, **groups: Any
) -> ConfigT:
    """Return the resolved config of a preset with some settings; without a store, an empty one."""
    with tempfile.TemporaryDirectory() as nothing:
        store = store or ArtifactStore(Path(nothing))
        return resolve(preset, groups, kind=kind, store=store).config


def plan_of(dag: Dag, config: PrepareConfig, store: ArtifactStore) -> Plan:
    """Return what a run of a DAG would do."""
    flow = ConfiguredFlow(type(config), dag=dag, body=lambda _session, _run: None)
    return flow.plan(resolve_config(config, store=store), store)
