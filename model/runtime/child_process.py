"""Child processes that make one artifact: command line, error report, verified inputs. No torch."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from model.config.runs import CONFIG_NAME, RESULT_NAME, ArtifactRun, ChildResult, ErrorReport
from model.core.errors import LLMError
from model.core.files import write_synced
from model.core.store import ArtifactStore, Work, check_sha256, check_sizes

logger = logging.getLogger(__name__)


def parse_config_path(arguments: Sequence[str] | None, *, description: str | None) -> Path:
    """Return the path given as ``--config`` on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="JSON file of this run")
    return parser.parse_args(arguments).config


def run_child(config_path: Path, make: Callable[[Path], None]) -> int:
    """Call ``make`` with the config's path and return the exit status.

    User-fixable errors are reported in one message; bugs propagate with their traceback.
    """
    try:
        make(config_path)
    except LLMError as error:
        logger.error("%s", error)  # noqa: TRY400 - a traceback would hide the message
        text = ChildResult(error=ErrorReport.of(error)).model_dump_json(indent=1)
        if config_path.parent.is_dir():
            write_synced(config_path.parent / RESULT_NAME, text.encode())
        return 1
    return 0


def make_artifact(run: ArtifactRun, body: Callable[[Work], None]) -> None:
    """Make the artifact of a run in the store, unless it exists."""

    def logged(work: Work) -> None:
        work.logs |= {CONFIG_NAME, RESULT_NAME}
        (work.path / RESULT_NAME).unlink(missing_ok=True)  # an earlier attempt's failure
        body(work)

    # The work directory is kept, as it holds the config; the body writes every file again.
    ArtifactStore(Path(run.data_root)).build(run.derivation, logged, resume=True)


def verify_inputs(run: ArtifactRun) -> None:
    """Read every content file of a run's inputs and compare it with its manifest.

    Raises:
        ArtifactError: an input, or a file of it, is missing or has another size.
        TamperedArtifactError: a file has another sha256.
    """
    store = ArtifactStore(Path(run.data_root))
    for item in (item for items in run.derivation.inputs.values() for item in items):
        manifest = store.read_manifest(item)
        check_sizes(store.path(item), manifest)
        for entry in manifest.files:
            if entry.role == "content":
                check_sha256(store.path(item) / entry.path, entry)
