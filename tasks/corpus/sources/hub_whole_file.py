"""A whole file of the hub, compared with its digest; wrong bytes are deleted and fetched once more.

What of it arrived before a kill, a lost network or a full disk stays, for the next call to go on.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from rich.filesize import decimal

from model.core.errors import CorruptDownloadError
from model.core.files import file_sha256
from tasks.corpus.sources import hub_bytes, hub_client
from tasks.corpus.sources.hub_client import HubFile
from tasks.corpus.sources.raw_file import link_or_copy, require_space, sweep

SPACE_MARGIN_BYTES = 32 * 2**20  # for what else is written meanwhile: logs, databases, manifests

logger = logging.getLogger(__name__)


def obtain(hub_file: HubFile, folder: Path) -> tuple[Path, str]:
    """Return a file and its sha256, from the user's hub cache or from the network, in `folder`.

    Raises:
        TransientDownloadError: another try may do; what arrived stays in `folder`.
        CorruptDownloadError: the hub sent other bytes than it promised, twice; they are deleted.
        DownloadError: the hub refused.
        DiskSpaceError: the disk cannot hold the file, or filled up; what arrived stays.
    """
    cached = hub_client.cached_path(hub_file)
    if cached is not None:
        copy = folder / "cached.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy(cached, copy)
        try:
            return copy, _verified_sha256(copy, hub_file)
        except CorruptDownloadError:
            logger.warning("%s is damaged: the file is fetched from the hub instead", cached)
    try:
        return _fetch(hub_file, folder)
    except CorruptDownloadError as error:
        logger.warning("%s: fetched once more (found %s)", error.problem, error.found)
        return _fetch(hub_file, folder)


def _fetch(hub_file: HubFile, folder: Path) -> tuple[Path, str]:
    """Download the file, going on from what an earlier process left; wrong bytes are deleted."""
    identity = hashlib.sha256(f"{hub_file.revision}:{hub_file.path}".encode()).hexdigest()
    partial = folder / f"{identity[:16]}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, keep=partial.name)
    num_there = hub_bytes.num_bytes_at(partial)
    require_space(folder, hub_file.num_bytes - num_there + SPACE_MARGIN_BYTES)
    left, whole = hub_file.num_bytes - num_there, hub_file.num_bytes
    logger.info("fetching %s of %s: %s", decimal(left), decimal(whole), hub_file.url)
    try:
        hub_bytes.complete(hub_file, partial)
        return partial, _verified_sha256(partial, hub_file)
    except CorruptDownloadError:
        partial.unlink(missing_ok=True)
        raise


def _verified_sha256(path: Path, hub_file: HubFile) -> str:
    found = file_sha256(path)
    num_bytes = path.stat().st_size
    if found == (hub_file.sha256 or found) and num_bytes == hub_file.num_bytes:
        return found
    raise CorruptDownloadError(
        "the hub sent other bytes than it promised; they were thrown away",
        expected=f"{hub_file.num_bytes:,} bytes with sha256 {hub_file.sha256}",
        found=f"{num_bytes:,} bytes with sha256 {found}",
        where=hub_file.url,
        fix="run again later; if it stays so, a proxy or a mirror behind HF_ENDPOINT is damaged",
    )
