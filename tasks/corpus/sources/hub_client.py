"""What we ask of the Hugging Face hub about files: a commit, a listing, what is in its local cache.

Everything is asked at a pinned commit. Every failure is one of our own errors (see `hub_errors`);
the bytes of files are the affair of `hub_bytes`.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile

from model.core.config import Config
from model.core.errors import DownloadError
from tasks.corpus.sources.hub_errors import endpoint, our_errors
from tasks.corpus.sources.hub_retries import with_patience

ANSWER_SECONDS = 10.0  # for the first question, so that a machine without network learns it soon


class HubFile(Config):
    """One file of a data set repository at one commit."""

    repo: str
    revision: str
    path: str
    num_bytes: int
    sha256: str | None

    @property
    def url(self) -> str:
        """Address of the bytes."""
        return hf_hub_url(
            self.repo,
            self.path,
            repo_type="dataset",
            revision=self.revision,
            endpoint=endpoint(),
        )


def find_commit(repo: str, revision: str) -> str:
    """Return the 40-digit commit that a branch, tag or commit stands for now."""
    where = page(repo, revision)

    def ask() -> str | None:
        with our_errors(where):
            api = HfApi(endpoint=endpoint())
            info = api.dataset_info(repo, revision=revision, expand=["sha"], timeout=ANSWER_SECONDS)
        return info.sha

    commit = with_patience(ask, only_if_answered=True)
    if commit is None or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DownloadError(
            "the hub named no commit",
            expected="40 hex digits",
            found=commit,
            where=where,
            fix="check that HF_ENDPOINT is the address of a Hugging Face hub",
        )
    return commit


def page(repo: str, revision: str, folder: str = "") -> str:
    """Return the address at which a person sees a folder of a data set."""
    return f"{endpoint()}/datasets/{repo}/tree/{revision}/{folder}".rstrip("/")


def list_folder(repo: str, revision: str, folder: str) -> list[HubFile]:
    """Return all files below a folder of the repository ('' = all of it)."""
    with our_errors(page(repo, revision, folder)):
        tree = HfApi(endpoint=endpoint()).list_repo_tree(
            repo, folder or None, recursive=True, revision=revision, repo_type="dataset"
        )
        return [
            HubFile(
                repo=repo,
                revision=revision,
                path=entry.path,
                num_bytes=entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else None,
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        ]


def cached_path(file: HubFile) -> Path | None:
    """Return the file in the user's hub cache, where another program put it, or None."""
    found = try_to_load_from_cache(
        file.repo, file.path, revision=file.revision, repo_type="dataset"
    )
    return Path(found).resolve() if isinstance(found, str) else None
