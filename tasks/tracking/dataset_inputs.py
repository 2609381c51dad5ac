"""Data sets of a run, with the digests by which MLflow finds runs on equal data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from model.core.artifact import Manifest
from tasks.stages.download import DownloadOutputs
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.stages.write_chat_shards import WriteChatShardsOutputs
from tasks.stages.write_preference_shards import WritePreferenceShardsOutputs
from tasks.stages.write_shards import WriteShardsOutputs
from tasks.tracking.mlflow_store import Context, DataSet


def data_tags(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Return the whole digests of source and validation documents, and of the tokenizer.

    Args:
        manifests: of the stages of a pipeline; other stages do not matter.
    """
    tags = {}
    raw = []
    for manifest in manifests:
        if DownloadOutputs.made(manifest):
            raw.append(manifest)
            tags["data.manifest_digest"] = joint_digest(raw)
        elif SelectValidationOutputs.made(manifest):
            tags["data.validation_digest"] = manifest.content_digest
        elif TrainTokenizerOutputs.made(manifest):
            tags["tokenizer.fingerprint"] = TrainTokenizerOutputs.facts_of(manifest).fingerprint
    return tags


def data_sets(manifests: Iterable[Manifest]) -> list[DataSet]:
    """Return source, training shards and validation documents of a pipeline."""
    found = []
    raw = []
    for manifest in manifests:
        if DownloadOutputs.made(manifest):
            raw.append(manifest)
        elif SelectValidationOutputs.made(manifest):
            found.append(_data_set(manifest, "validation"))
        elif WriteShardsOutputs.made(manifest) and manifest.artifact.name == "training":
            found.append(_data_set(manifest, "training"))
        elif WriteChatShardsOutputs.made(manifest) or WritePreferenceShardsOutputs.made(manifest):
            context = "validation" if manifest.artifact.name == "validation" else "training"
            found.append(_data_set(manifest, context))
    return [*([_source(raw)] if raw else []), *found]


def training_data(manifest: Manifest) -> list[DataSet]:
    """Return the shards that a training read, text of its base included, by their digests."""
    return [
        DataSet(
            name=f"{item.stage}/{item.name}",
            digest=manifest.input_digests[item.key],
            context="validation" if role == "validation" else "training",
            uri=item.relative_path,
        )
        for role in ("training", "pretraining", "validation")
        for item in manifest.derivation.inputs.get(role, ())
    ]


def joint_digest(manifests: Sequence[Manifest]) -> str:
    """Return one digest of several artifacts, whatever their order."""
    lines = sorted(f"{item.artifact.name}\0{item.content_digest}" for item in manifests)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _source(raw: Sequence[Manifest]) -> DataSet:
    config = raw[0].derivation.config
    name = str(config.get("repo", config["kind"]))
    is_hub = config["kind"] == "hub"
    return DataSet(
        name=name,
        digest=joint_digest(raw),
        context="source",
        uri=f"hf://datasets/{name}@{config['revision']}" if is_hub else DownloadOutputs.stage,
        profile={
            "num_files": len(raw),
            "num_documents": sum(DownloadOutputs.counts_of(item).num_documents for item in raw),
        },
    )


def _data_set(manifest: Manifest, context: Context) -> DataSet:
    return DataSet(
        name=f"{manifest.artifact.stage}/{manifest.artifact.name}",
        digest=manifest.content_digest,
        context=context,
        uri=manifest.artifact.relative_path,
        profile=manifest.counts,
    )
