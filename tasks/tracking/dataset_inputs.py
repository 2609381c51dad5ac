"""Which data went into a run, as digests by which MLflow finds runs on equal data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from model.core.artifact import Manifest
from tasks.tracking.mlflow_store import Context, DataSet


def data_tags(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Return the whole digests of source and validation documents, and of the tokenizer.

    Args:
        manifests: of the stages of a pipeline; other stages do not matter.
    """
    tags = {}
    raw = []
    for manifest in manifests:
        if manifest.artifact.stage == "download":
            raw.append(manifest)
            tags["data.manifest_digest"] = joint_digest(raw)
        elif manifest.artifact.stage == "select_validation":
            tags["data.validation_digest"] = manifest.content_digest
        elif manifest.artifact.stage == "train_tokenizer":
            tags["tokenizer.fingerprint"] = str(manifest.facts["fingerprint"])
    return tags


def data_sets(manifests: Iterable[Manifest]) -> list[DataSet]:
    """Return source, training shards and validation documents of a pipeline."""
    found = []
    raw = []
    for manifest in manifests:
        if manifest.artifact.stage == "download":
            raw.append(manifest)
        elif manifest.artifact.stage == "select_validation":
            found.append(_data_set(manifest, "validation"))
        elif manifest.artifact.stage == "write_shards" and manifest.artifact.name == "training":
            found.append(_data_set(manifest, "training"))
        elif manifest.artifact.stage in ("write_chat_shards", "write_preference_shards"):
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
        uri=f"hf://datasets/{name}@{config['revision']}" if is_hub else "download",
        profile={
            "num_files": len(raw),
            "num_documents": sum(item.counts["num_documents"] for item in raw),
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
