"""deployments.addresses: ports, from settings to a refusal that says what to change."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from deployments.addresses import HOST, Addresses, listener, read_addresses, require_free_ports
from model.core.errors import ConfigError
from tests.support.servers import free_port


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_addresses_default_are_the_documented_ones() -> None:
    addresses = read_addresses({})
    assert addresses.prefect_api == "http://127.0.0.1:4200/api"
    assert addresses.mlflow == "http://127.0.0.1:5000"


def test_addresses_follow_the_environment() -> None:
    assert read_addresses({"PREFECT_PORT": "4300", "MLFLOW_PORT": ""}) == Addresses(4300, 5000)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "4200.5", "４２００"])
def test_addresses_with_what_is_no_port_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"PREFECT_PORT is no port(.|\n)*1 to 65535"):
        read_addresses({"PREFECT_PORT": text})


def test_addresses_with_one_port_for_two_servers_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot share a port"):
        read_addresses({"PREFECT_PORT": "5000"})


def test_free_ports_are_accepted() -> None:
    require_free_ports(Addresses(free_port(), free_port()))


def test_port_in_use_is_refused_naming_setting_and_process(occupied: int) -> None:
    with pytest.raises(ConfigError) as caught:
        require_free_ports(Addresses(free_port(), occupied))
    error = caught.value
    assert error.problem == f"port {occupied} is in use"
    assert error.where == "MLFLOW_PORT"
    assert "Mlflow on 127.0.0.1" in str(error.expected)
    assert f"process {os.getpid()}:" in str(error.found)
    assert f"MLFLOW_PORT={occupied + 1} make local" in str(error.fix)


def test_listener_of_a_free_port_is_nobody_known() -> None:
    assert listener(free_port()).startswith("a process of another user")
