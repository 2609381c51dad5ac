"""The command line of every flow.

    python -m flows.pretrain --preset demo --set train.steps=200 --dry-run

Help and wrong settings are answered from here, with pydantic alone; a flow module reads its command
before it imports Prefect and the stages.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from flows.settings.config import PrepareConfig
from flows.settings.overrides import merged_config, parse_settings, single_settings
from flows.settings.presets import PRESETS
from model.core.errors import LLMError

ConfigT = TypeVar("ConfigT", bound=PrepareConfig)


@dataclass(frozen=True)
class Command(Generic[ConfigT]):
    """A flow asked for on the command line."""

    preset: str
    overrides: Mapping[str, Any]  # the settings as the user gave them, by group
    config: ConfigT  # the preset with them on top, validated
    dry_run: bool
    # With ``dry_run``, all that differs from what was made before, not the first few fields.
    why: bool


def read_command(
    kind: type[ConfigT],
    module: str,
    description: str | None,
    *,
    arguments: Sequence[str] | None = None,
) -> Command[ConfigT] | None:
    """Return the checked command line of a flow; exit with 2 for an error its user can fix.

    Args:
        kind: the config class of the flow.
        module: ``__name__`` of the flow's module: imported, it has no command line.
        description: for ``--help``.
    """
    if module != "__main__":
        return None
    options = _parse(description, arguments)
    with user_errors():
        overrides = parse_settings(options.set, alone=single_settings(kind))
        config = merged_config(options.preset, overrides, kind=kind)
    return Command(options.preset, overrides, config, dry_run=options.dry_run, why=options.why)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that a user can fix as its message, and exit with 2; end on Ctrl-C."""
    try:
        yield
    except LLMError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: what was made is kept; run it again to continue\n")
        sys.stderr.flush()
        logging.shutdown()
        # A pool whose workers died of the same signal would be waited for without end.
        os._exit(128 + signal.SIGINT)


def _parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="sample", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="GROUP.FIELD=VALUE", help="may be repeated"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings and plan, run nothing"
    )
    parser.add_argument(
        "--why", action="store_true", help="with --dry-run: all that differs, not the first few"
    )
    options = parser.parse_args(arguments)
    if options.why and not options.dry_run:
        parser.error("--why says more about a plan: it goes with --dry-run")
    return options
