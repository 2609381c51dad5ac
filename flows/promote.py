"""Flow promote: a registered version becomes the champion, or the champion before returns.

prefect deployment run promote/model -p name=llm-chat
python -m flows.promote --name llm-chat [--version 3] [--force]
python -m flows.promote --name llm-chat --back
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from prefect import flow

from flows.server import prefect_api
from flows.settings.cli import user_errors
from tasks.engine.pipeline import silence_stderr_at_exit
from tasks.engine.stage import let_logs_through
from tasks.stages.promote_model import promote_model


@flow
def promote(
    name: str = "llm-chat", version: int | None = None, force: bool = False, back: bool = False
) -> None:
    """Make a version of a registered model its champion if it is no worse than the present one.

    Args:
        name: registered model.
        version: unset = the one with the alias candidate.
        force: promote it whatever its scores.
        back: restore the champion before instead.
    """
    let_logs_through()
    promote_model(name, version=version, force=force, back=back)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the flow as the command line says; exit with 2 for an error its user can fix."""
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description=promote.__doc__)
    parser.add_argument("--name", default="llm-chat", help="registered model")
    parser.add_argument("--version", type=int, help="unset: the candidate")
    parser.add_argument("--force", action="store_true", help="whatever its scores")
    parser.add_argument("--back", action="store_true", help="restore the champion before")
    options = parser.parse_args(arguments)
    silence_stderr_at_exit()
    with user_errors(), prefect_api():
        promote(**vars(options))


if __name__ == "__main__":
    main()
