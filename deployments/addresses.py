"""Addresses of the local stack's servers, and the check that their ports are free."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from model.core.errors import ConfigError

HOST = "127.0.0.1"
DEFAULT_PORTS = {"PREFECT_PORT": 4200, "MLFLOW_PORT": 5000}


@dataclass(frozen=True)
class Addresses:
    """Ports of the two servers."""

    prefect_port: int
    mlflow_port: int

    @property
    def prefect(self) -> str:
        """The Prefect server and its UI."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def prefect_api(self) -> str:
        """Value of ``PREFECT_API_URL`` for this server."""
        return f"{self.prefect}/api"

    @property
    def mlflow(self) -> str:
        """The MLflow server and its UI."""
        return f"http://{HOST}:{self.mlflow_port}"


def read_addresses(environment: Mapping[str, str]) -> Addresses:
    """Return the addresses of the stack from ``PREFECT_PORT`` and ``MLFLOW_PORT``.

    Raises:
        ConfigError: a setting is no port, or both ports are equal.
    """
    ports = [_port(name, environment) for name in DEFAULT_PORTS]
    if len(set(ports)) < len(ports):
        raise ConfigError(
            "two servers cannot share a port",
            expected="different ports",
            found=f"{ports[0]} twice",
            where=" and ".join(DEFAULT_PORTS),
            fix="change one of them",
        )
    return Addresses(*ports)


def _port(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name) or str(DEFAULT_PORTS[name])
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise ConfigError(
            f"{name} is no port",
            expected="a number from 1 to 65535",
            found=text,
            where=name,
            fix=f"{name}={DEFAULT_PORTS[name] + 1} make local",
        )
    return int(text)


def require_free_ports(addresses: Addresses) -> None:
    """Check that both ports are free.

    Raises:
        ConfigError: another process listens on a port; the message names the setting.
    """
    for name, port in zip(
        DEFAULT_PORTS, (addresses.prefect_port, addresses.mlflow_port), strict=True
    ):
        if _occupied(port):
            raise ConfigError(
                f"port {port} is in use",
                expected=f"a free port for {name.removesuffix('_PORT').capitalize()} on {HOST}",
                found=listener(port),
                where=name,
                fix=f"stop that process, or choose another port: {name}={port + 1} make local",
            )


def _occupied(port: int) -> bool:
    with socket.socket() as caller:
        if caller.connect_ex((HOST, port)) == 0:  # on macOS, bind() alone misses a listener on *
            return True
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError:
            return True
    return False


def listener(port: int) -> str:
    """Return the process that listens on a port, if the system names it."""
    try:
        for connection in psutil.net_connections("tcp"):
            address, pid = connection.laddr, connection.pid
            listens = connection.status == psutil.CONN_LISTEN
            if listens and pid and address and address.port == port:
                return f"process {pid}: {' '.join(psutil.Process(pid).cmdline())[:120]}"
    except psutil.Error:  # macOS tells root only; a process may be gone by now
        pass
    return "a process of another user, or one that the system does not name"
