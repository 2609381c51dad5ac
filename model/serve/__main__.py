"""Serve an exported model over an OpenAI-compatible API.

    python -m model.serve --model <folder of an export>

``--model`` also takes ``models:/<name>@<alias>``; without it the newest export below
``$LLM_DATA_ROOT`` is served. A key in ``$LLM_API_KEY`` guards ``/v1``. When the source resolves to
another version, that one is loaded while the server runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from model.core.errors import LLMError
from model.serve.app import ServerConfig, create_app
from model.serve.hot_reload import ModelSource, find_source

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "LLM_API_KEY"
GRACE_SECONDS = 10  # for open requests at shutdown


async def serve(source: ModelSource, config: ServerConfig) -> None:
    """Serve until the process is asked to end.

    Raises:
        LLMError: the source cannot be resolved, or its folder cannot be loaded.
    """
    app = create_app(source, config, api_key=os.environ.get(API_KEY_VARIABLE) or None)
    await app.state.host.load()  # here, so that its errors reach the command line
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    await uvicorn.Server(settings).serve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model the command line names; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--model",
        help="folder of an export, or models:/<name>@<alias>; the newest export otherwise",
    )
    for name, known in ServerConfig.model_fields.items():
        text = f"{known.description} ({known.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, default=known.default)
    options = vars(parser.parse_args(arguments))
    source = find_source(options.pop("model"))
    try:
        config = ServerConfig.model_validate(options)
        logger.info("http://%s:%d", config.host, config.port)
        asyncio.run(serve(source, config))
    except (LLMError, ValidationError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
