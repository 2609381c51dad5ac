"""The command line of every flow.

    python -m flows.pretrain --preset demo --set train.steps=200 --dry-run

Needs no server: one that answers at the configured address is used, otherwise the run gets a
temporary one of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prefect import Flow
from prefect.context import refresh_global_settings_context
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings

from flows.configured import Dag, plan_flow
from flows.settings.presets import PRESETS, PrepareConfig
from flows.settings.resolve import resolve, single_settings
from model.core.errors import ConfigError, LLMError, ServerError
from model.core.store import ArtifactStore
from tasks.engine.pipeline import end_quietly
from tasks.engine.stage import data_root
from tasks.planning.plan import settings_text

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

logger = logging.getLogger(__name__)

SERVER_PROBE_SECONDS = 1.0


def run_command(
    flow: Flow[..., None],
    config: type[PrepareConfig],
    dag: Dag,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a flow, or plan it with ``--dry-run``; exit with 2 for an error its user can mend."""
    options = _parse(flow, arguments)
    end_quietly()
    try:
        groups = parse_settings(options.set, alone=single_settings(config))
        resolved = resolve(options.preset, kind=config, **groups)
        if options.dry_run:
            plan = plan_flow(dag, resolved, ArtifactStore(data_root()))
            _say(settings_text(resolved))
            _say(plan.text())
            if options.why:
                _say(plan.reasons_text())
        else:
            with prefect_api():
                flow(options.preset, **groups)
    except LLMError as error:
        _say(f"\nerror: {error}", stream=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _say("\ninterrupted: what was made is kept; run it again to go on", stream=sys.stderr)
        logging.shutdown()
        # A pool whose workers died of the same signal would be waited for until the end of days.
        os._exit(128 + signal.SIGINT)


def parse_settings(settings: Sequence[str], *, alone: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``group.field=value`` settings by group; a value is JSON, or else text.

    Args:
        alone: settings without a group.

    Raises:
        ConfigError: a setting has another form.

    Example:
        >>> parse_settings(["train.steps=100", "finetune.train.steps=10"])
        {'train': {'steps': 100}, 'finetune': {'train': {'steps': 10}}}
    """
    groups: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        *path, field = name.split(".")
        if not (equals and field and all(path) and (path or field in alone)):
            raise ConfigError(
                "a setting has no group, no field or no value",
                expected="group.field=value, such as train.steps=100",
                found=setting,
                where="--set",
                fix="write it like the example",
            )
        within = groups
        for number, group in enumerate(path):
            within = within.setdefault(group, {})
            if not isinstance(within, dict):
                raise _not_a_group(".".join(path[: number + 1]), found=within)
        within[field] = _value(text)
        if within[field] is None:
            raise _unsets_nothing(setting)
    return groups


def _unsets_nothing(setting: str) -> ConfigError:
    return ConfigError(
        "null does not unset what the preset sets",
        expected="a value",
        found=setting,
        where="--set",
        fix="leave it out to keep the preset's; for no limit give a number beyond what there is",
    )


def _not_a_group(name: str, *, found: Any) -> ConfigError:
    return ConfigError(
        f"{name} is a group of settings",
        expected=f"{name}.<setting>=<value>",
        found=f"{name}={found}",
        where="--set",
        fix="name the setting and its value",
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@contextlib.contextmanager
def prefect_api() -> Iterator[None]:
    """Give this process and its children one Prefect API: the configured or a temporary one."""
    url = get_current_settings().api.url
    if url and _answers(url):
        logger.info("using the Prefect server at %s", url)
        yield
        return
    server = _new_server()
    # Prefect passes a SIGTERM on to the handler before it: the default one would leave the server.
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    _start(server)
    try:
        with _api_address(server.api_url):
            try:
                yield
            finally:  # or they are sent, with many retries, to a server that is gone
                APILogWorker.drain_all()
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)


def _new_server() -> SubprocessASGIServer:
    """Import Prefect's server, which is slow, where it is needed."""
    from prefect.server.api.server import SubprocessASGIServer

    return SubprocessASGIServer()


def _start(server: SubprocessASGIServer) -> None:
    """Start a server that outlives Ctrl-C, which a terminal sends to all processes of a command."""
    patience_seconds = get_current_settings().server.ephemeral.startup_timeout_seconds
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the server
    try:
        server.start(timeout=patience_seconds)
    except RuntimeError as exc:
        raise ServerError(
            "the temporary Prefect server did not start; nothing was run",
            expected=f"an answer within {patience_seconds} seconds",
            found=exc,
            fix="wait until the machine is less busy, raise "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or run `make local` and leave it "
            "running",
        ) from exc
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _api_address(url: str) -> Iterator[None]:
    """Let every thread of this process, and the task runner's processes, use one address.

    Settings set for a context would not reach Prefect's own threads, which send the logs.
    """
    before = os.environ.get(PREFECT_API_URL.name)
    os.environ[PREFECT_API_URL.name] = url
    refresh_global_settings_context()
    try:
        yield
    finally:
        del os.environ[PREFECT_API_URL.name]
        if before is not None:
            os.environ[PREFECT_API_URL.name] = before
        refresh_global_settings_context()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=SERVER_PROBE_SECONDS):  # noqa: S310
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _parse(flow: Flow[..., None], arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow.name}", description=flow.__doc__)
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


def _say(text: str, *, stream: Any = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")
