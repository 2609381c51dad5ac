"""Base checkpoint of a fine-tuning, by its address in the artifact store or the registry.

Tokenizer, model settings and pretraining text come from its manifest, whatever the settings of the
run are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config.network import ModelConfig
from model.config.outputs import ExportModelOutputs, TrainModelOutputs
from model.core.artifact import Artifact, Manifest
from model.core.errors import ArtifactError, ConfigError
from model.core.store import ArtifactStore
from model.export.registry import CHAMPION, find_version
from tasks.artifacts import find
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.tracking.mlflow_store import KEY_TAG

REGISTRY_PREFIX = "models:/"


@dataclass(frozen=True)
class BaseCheckpoint:
    """A trained model, and what it was trained with."""

    trained: Artifact
    tokenizer: Artifact
    pretraining: tuple[Artifact, ...]  # the shards of text it learned from
    model: ModelConfig
    vocab_size: int


def find_base(address: str, store: ArtifactStore) -> BaseCheckpoint:
    """Return the base model of an address.

    Args:
        address: ``train_model/<name>-<key>`` or a unique beginning of it, or
            ``models:/<name>@<alias>`` (the champion without an alias).

    Raises:
        ConfigError: the address is of another form.
        ArtifactError: no such training, or none of that version's content, is in this store.
        RegistryError: there is no such registered model or alias.
    """
    if address.startswith(REGISTRY_PREFIX):
        trained = _registered(address, store)
    elif address.startswith(f"{TrainModelOutputs.stage}/"):
        trained = find(store, address)
    else:
        raise ConfigError(
            "the address of a base model has another form",
            expected=f"{TrainModelOutputs.stage}/<name>-<key>, or {REGISTRY_PREFIX}<name>@<alias>, "
            "or nothing",
            found=address,
            where="finetune.base",
            fix="see `python -m tasks.artifacts list train_model`",
        )
    (tokenizer,) = trained.derivation.inputs["tokenizer"]
    return BaseCheckpoint(
        trained=trained.artifact,
        tokenizer=tokenizer,
        pretraining=_pretraining(trained, store),
        model=_model_config(trained),
        vocab_size=TrainTokenizerOutputs.of(store, tokenizer).facts.vocab_size,
    )


def _registered(address: str, store: ArtifactStore) -> Manifest:
    """Return the training that a registered version was exported from."""
    name, _, alias = address.removeprefix(REGISTRY_PREFIX).partition("@")
    version = find_version(name, alias=alias or CHAMPION)
    key = version.tags.get(KEY_TAG)
    exports = (item for item in ExportModelOutputs.manifests(store) if item.derivation.key == key)
    exported = next(exports, None)
    if exported is None:
        raise ArtifactError(
            f"{version.uri} was not made in this store: its training is not here",
            expected=f"the {ExportModelOutputs.stage} artifact of key {key}",
            found="no such artifact",
            where=store.root,
            fix="set LLM_DATA_ROOT to the store that made it, or adopt its artifacts "
            "(python -m tasks.artifacts adopt)",
        )
    (trained,) = exported.derivation.inputs["model"]
    return store.read_manifest(trained)


def _pretraining(trained: Manifest, store: ArtifactStore) -> tuple[Artifact, ...]:
    """Return the shards of text behind a model, which its own training may not have read."""
    inputs = trained.derivation.inputs
    if inputs.get("pretraining"):
        return inputs["pretraining"]
    if "init_from" not in inputs:
        return inputs["training"]
    (base,) = inputs["init_from"]
    return _pretraining(store.read_manifest(base), store)


def _model_config(trained: Manifest) -> ModelConfig:
    fields: dict[str, Any] = trained.derivation.config["model"]
    known = {name: fields[name] for name in ModelConfig.model_fields}
    return ModelConfig.model_validate(known)
