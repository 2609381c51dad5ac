"""Branches of the hub as commits, so that a name means the same at every step of a run."""

from __future__ import annotations

from tasks.config.corpus import QualityModelConfig, SourceConfig
from tasks.corpus.sources.hub import resolve_revision


def pinned_source(source: SourceConfig) -> SourceConfig:
    """Return a source of raw documents at a commit.

    Raises:
        DownloadError: the hub names no commit.
    """
    return resolve_revision(source) if source.kind == "hub" else source


def pinned_quality_model(quality: QualityModelConfig) -> QualityModelConfig:
    """Return the settings of the quality classifier with its labels at a commit, if it is used.

    Raises:
        DownloadError: the hub names no commit.
    """
    if quality.select == "none" or quality.labels != "hub":
        return quality
    source = SourceConfig(kind="hub", repo=quality.repo, revision=quality.revision)
    return quality.model_copy(update={"revision": resolve_revision(source).revision})
