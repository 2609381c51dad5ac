"""Task register_model: the exported model as a version of a registered model in MLflow.

Not a stage: it makes nothing in the artifact store, and what it makes in MLflow it makes once. A
version is known by the content digest of the exported artifact, so registering it again at most
moves the alias and adds later scores: all in tags, and those from after the model's card in the
description.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from model.config.outputs import ExportModelOutputs, ScoreModelFacts, ScoreModelOutputs
from model.core.artifact import Artifact, Manifest, canonical_json
from model.core.config import Config
from model.core.store import ArtifactStore
from model.export.registry import DIGEST_TAG, VALIDATION_TAG
from tasks.config.evaluation import ITEMS_TAG, PINNED_SCORES, PROMPTS_TAG
from tasks.config.run import RegistryConfig
from tasks.reporting.model_card import measured_facts, score_table
from tasks.stages.generation_prompts import GenerationPromptsOutputs
from tasks.stages.read_chats import ReadChatsOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.tracking.flavour import write_flavour
from tasks.tracking.mlflow_store import KEY_TAG, RunStore
from tasks.tracking.run import TRAINING_RUN_TAG, TrackedPipeline
from tasks.tracking.training import model_name

logger = logging.getLogger(__name__)

WRITING = ("temperature", "top_k", "generation_tokens", "answer_tokens", "seed")  # of score
REGISTERED_TAG = "llm.registered_model"


class RegisteredModel(Config):
    """One version of a registered model."""

    name: str
    version: int
    alias: str
    uri: str
    is_new: bool


@task(name="register_model", persist_result=False, cache_policy=NO_CACHE, log_prints=False)
def register_model(
    tracked: TrackedPipeline,
    exported: Artifact,
    *,
    scores: Sequence[Artifact] = (),
    registry: RegistryConfig,
    store: ArtifactStore,
) -> RegisteredModel | State[RegisteredModel] | None:
    """Register an exported model, unless a version has its content already, and set the alias.

    Args:
        exported: of export_model.
        scores: of the stages that measured it, for the version's tags.

    Returns:
        The version, in Prefect state ``Cached`` if it was there; ``None`` if the store failed.
    """
    manifest = store.read_manifest(exported)
    measured = [store.read_manifest(item) for item in scores]
    on_card = manifest.derivation.inputs.get("scores", ())
    later = [item for item in measured if item.artifact not in on_card]
    register = partial(
        _register,
        manifest=manifest,
        tags=version_tags(manifest, measured, store),
        description=score_table(later) if later else "",
        registry=registry,
        store=store,
    )
    with store.locked(exported):  # two pipelines with one model: one registers it
        found = tracked.attempt("registering the model", register)
    if found is None:
        return None
    tracked.record_tags({REGISTERED_TAG: found.uri})
    logger.info("%s is %s, alias %s", exported.relative_path, found.uri, found.alias)
    if found.is_new:
        return found
    message = f"{found.uri} has this content already"
    return Completed(name="Cached", message=message, data=found)


def version_tags(
    exported: Manifest, scores: Sequence[Manifest], store: ArtifactStore
) -> dict[str, str]:
    """Return what a version is found and compared by: digests and pinned scores.

    Scores compare only between versions of an equal digest of what they were measured on.
    """
    tags = {KEY_TAG: exported.derivation.key, DIGEST_TAG: exported.content_digest}
    for measured in scores:
        facts = measured_facts(measured)
        tags |= {
            score.name: f"{facts.scores[score.name]:.6f}"
            for score in PINNED_SCORES
            if score.name in facts.scores
        }
        if isinstance(facts, ScoreModelFacts):
            tags |= {f"{ITEMS_TAG}{name}": digest for name, digest in facts.items_digests.items()}
        digest = validation_digest(measured, store)
        if digest:
            tags[VALIDATION_TAG] = digest
        asked = prompts_digest(measured, store)
        if asked:
            tags[PROMPTS_TAG] = asked
    return tags


def validation_digest(scores: Manifest, store: ArtifactStore) -> str | None:
    """Return what identifies the documents, or the conversations, that a model was scored on.

    ``None`` for what read none, such as judgements of texts.
    """
    held_out = scores.derivation.inputs.get("validation", ())
    if not held_out:
        return None
    for shards in held_out:
        if WriteChatShardsOutputs.made(shards):
            return chat_validation_digest(store.read_manifest(shards), store)
    validation = SelectValidationOutputs.nearest(scores, store)
    return validation and validation.content_digest


def chat_validation_digest(shards: Manifest, store: ArtifactStore) -> str:
    """Return what identifies the conversations behind validation shards, whatever their tokens.

    Where some did not fit the context, its size and the numbers dropped and cut are part of it.

    Args:
        shards: of write_chat_shards.
    """
    lines = []
    for item in shards.derivation.inputs["chats"]:
        outputs = ReadChatsOutputs.of(store, item)
        files = outputs.manifest.files
        (sha256,) = (entry.sha256 for entry in files if entry.path == outputs.held_out.name)
        lines.append(f"{item.name}\0{sha256}")
    counts = WriteChatShardsOutputs.counts_of(shards)
    lost = {"too_long": counts.too_long, "num_cut": counts.num_cut}
    if any(lost.values()):
        context_tokens = WriteChatShardsOutputs.facts_of(shards).context_tokens
        limits = {"context_tokens": context_tokens, **lost}
        lines += [f"\0{name}\0{value}" for name, value in limits.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def prompts_digest(measured: Manifest, store: ArtifactStore) -> str | None:
    """Return what identifies the prompts a model wrote after, and how its texts were sampled."""
    is_scoring = ScoreModelOutputs.made(measured)
    scored = measured if is_scoring else ScoreModelOutputs.nearest(measured, store)
    prompts = GenerationPromptsOutputs.nearest(measured, store)
    if scored is None or prompts is None:
        return None
    score = scored.derivation.config.get("score", {})
    content = {"prompts": prompts.content_digest, **{name: score.get(name) for name in WRITING}}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _register(
    runs: RunStore,
    run_id: str,
    *,
    manifest: Manifest,
    tags: dict[str, str],
    description: str,
    registry: RegistryConfig,
    store: ArtifactStore,
) -> RegisteredModel:
    client, name = runs.client, registry.name
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(
        f"name = '{name}' and tags.`{DIGEST_TAG}` = '{manifest.content_digest}'"
    )
    known = [int(item.version) for item in versions]
    version = max(known) if known else _upload(runs, run_id, manifest, tags, name, store)
    _describe(runs, name, version, tags=tags, description=description)
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(registry.alias)) != str(version):  # a number, or text from a server
        client.set_registered_model_alias(name, registry.alias, str(version))
    return RegisteredModel(
        name=name,
        version=version,
        alias=registry.alias,
        uri=f"models:/{name}/{version}",
        is_new=not known,
    )


def _describe(
    runs: RunStore, name: str, version: int, *, tags: dict[str, str], description: str
) -> None:
    """Write the newest scores of a version; earlier ones stay while their data are the same."""
    client = runs.client
    found = client.get_model_version(name, str(version))
    for score in PINNED_SCORES:
        data = found.tags.get(score.data_tag)
        is_stale = score.name not in tags and tags.get(score.data_tag, data) != data
        if score.name in found.tags and is_stale:
            client.delete_model_version_tag(name, str(version), score.name)
    for key, value in tags.items():
        if found.tags.get(key) != value:
            client.set_model_version_tag(name, str(version), key, value)
    if description and description != found.description:
        client.update_model_version(name, str(version), description)


def _upload(
    runs: RunStore,
    run_id: str,
    manifest: Manifest,
    tags: dict[str, str],
    name: str,
    store: ArtifactStore,
) -> int:
    """Copy the exported folder into the store, servable, and return the number of its version."""
    client = runs.client
    run = client.get_run(run_id)
    source_run_id = run.data.tags.get(TRAINING_RUN_TAG, run_id)
    model = client.create_logged_model(
        runs.experiment_id,
        name=model_name(name),
        source_run_id=source_run_id,
        tags=tags,
        model_type="causal-lm",
    )
    folder = ExportModelOutputs.of(store, manifest.artifact).folder
    client.log_model_artifacts(model.model_id, str(folder))
    with TemporaryDirectory() as beside:
        write_flavour(store.path(manifest.artifact), Path(beside))
        client.log_model_artifacts(model.model_id, beside)
    model = client.finalize_logged_model(model.model_id, "READY")
    points = runs.last_points(run_id)
    step = max((point.step for point in points), default=0)
    runs.link_model(model, run_id=run_id, step=step, points=points)
    version = client.create_model_version(
        # The address of the files: MLflow looks models:/ addresses up in its process-wide store.
        name,
        source=model.artifact_location,
        run_id=source_run_id,
        tags=tags,
        model_id=model.model_id,
    )
    return int(version.version)
