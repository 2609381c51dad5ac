"""docker-compose.yml and its images, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import prefect
import pytest
import yaml
from mlflow import MlflowClient, environment_variables
from prefect.cli._app import _app as prefect_cli
from prefect.settings.legacy import _get_valid_setting_names

from deployments.create_bucket import create_bucket
from deployments.processes import Service, end
from deployments.server_calls import answers
from tests.support.s3_server import S3Server, s3_server
from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
FILLED_IN = {"POSTGRES_PASSWORD": "secret", "S3_ACCESS_KEY": "access", "S3_SECRET_KEY": "key"}
VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?P<rest>[^}]*)\}")

# The keys of a service that this file uses, out of the Compose specification: a typo is no key.
SERVICE_KEYS = {
    "build", "cap_add", "cap_drop", "command", "depends_on", "deploy", "entrypoint", "environment",
    "healthcheck", "image", "init", "ports", "profiles", "restart", "security_opt", "shm_size",
    "stop_grace_period", "user", "volumes",
}  # fmt: skip


def interpolated(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the compose file as the engine sees it."""

    def value(match: re.Match[str]) -> str:
        name, rest = match["name"], match["rest"]
        if rest.startswith(":?") and not environment.get(name):
            raise KeyError(name)
        return environment.get(name) or rest.removeprefix(":-").partition(":?")[0]

    return yaml.safe_load(VARIABLE.sub(value, COMPOSE.read_text()))


DOCUMENT = interpolated(FILLED_IN)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
per_service = pytest.mark.parametrize("name", SERVICES)


def words(service: Mapping[str, Any]) -> list[str]:
    """Return the words of a service's command."""
    command = service.get("command", [])
    return shlex.split(command) if isinstance(command, str) else list(command)


def test_compose_needs_every_secret_and_gives_none_a_default() -> None:
    for name in FILLED_IN:
        with pytest.raises(KeyError, match=name):
            interpolated({key: value for key, value in FILLED_IN.items() if key != name})


def test_compose_variables_are_all_explained_in_the_example() -> None:
    example = (ROOT / ".env.example").read_text()
    uses = {(match["name"], match["rest"][:2]) for match in VARIABLE.finditer(COMPOSE.read_text())}
    required = {name for name, rest in uses if rest == ":?"}
    optional = {name for name, rest in uses if rest == ":-"}
    assert {name for name, _ in uses} == required | optional
    assert set(re.findall(r"^([A-Z0-9_]+)=$", example, flags=re.MULTILINE)) == required
    assert set(re.findall(r"^#([A-Z0-9_]+)=", example, flags=re.MULTILINE)) == optional


@per_service
def test_service_has_known_keys_only(name: str) -> None:
    assert set(SERVICES[name]) - SERVICE_KEYS == set()


@per_service
def test_service_image_has_an_exact_tag(name: str) -> None:
    _, colon, tag = SERVICES[name]["image"].rpartition(":")
    assert colon
    assert re.match(r"\d+\.\d+", tag)


@per_service
def test_service_depends_on_what_can_become_so(name: str) -> None:
    for target, wanted in SERVICES[name].get("depends_on", {}).items():
        condition = wanted["condition"]
        if condition == "service_healthy":
            assert SERVICES[target]["healthcheck"]["test"][0] == "CMD"
        else:
            assert condition == "service_completed_successfully"
            assert SERVICES[target]["restart"] == "no"


@per_service
def test_service_runs_with_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if name != "volumes-init":  # root for one chown, and no more
        assert service["user"] not in ("root", "0", "0:0")
        assert "cap_add" not in service


def test_volumes_are_all_declared_and_used() -> None:
    mounts = [mount for item in SERVICES.values() for mount in item.get("volumes", [])]
    sources = {mount.split(":")[0] for mount in mounts}
    files = {source for source in sources if source.startswith("./")}
    assert sources - files == set(DOCUMENT["volumes"])
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_workers_get_time_to_save_a_checkpoint() -> None:
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["stop_grace_period"] == "120s"
        assert SERVICES[name]["shm_size"] == "8gb"


def test_workers_together_serve_all_queues_of_the_deployments() -> None:
    deployments = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
    queues = {item["work_pool"]["work_queue_name"] for item in deployments}
    served = {
        name: set(re.findall(r"--work-queue (\S+)", " ".join(words(SERVICES[name]))))
        for name in ("worker", "worker-gpu")
    }
    assert served == {"worker": queues - {"gpu"}, "worker-gpu": queues}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]


def test_prefect_commands_have_options_that_prefect_knows() -> None:
    commands = [words(item) for item in SERVICES.values() if words(item)[:1] == ["prefect"]]
    assert {command[1] for command in commands} == {"server", "worker"}
    for _, *arguments in commands:
        prefect_cli.parse_args(arguments, exit_on_error=False, print_error=False)


# Options of `mlflow server` in the environment; the tests on PostgreSQL show that they work.
SERVER_OPTIONS = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"}


@per_service
def test_variables_are_known_to_prefect_and_mlflow(name: str) -> None:
    known = _get_valid_setting_names(prefect.settings.Settings) | SERVER_OPTIONS
    for variable in SERVICES[name].get("environment", {}):
        if variable.startswith(("PREFECT_", "MLFLOW_")):
            assert variable in known or hasattr(environment_variables, variable)


def test_mlflow_lets_the_names_in_that_clients_use() -> None:
    allowed = SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    used = {
        urlsplit(item["environment"]["MLFLOW_TRACKING_URI"]).netloc
        for item in SERVICES.values()
        if "MLFLOW_TRACKING_URI" in item.get("environment", {})
    }
    assert used == {"mlflow:5000"}
    for host in [*used, "127.0.0.1:5000", "localhost:5000", "127.0.0.1:5900"]:
        assert any(fnmatch(host, pattern) for pattern in allowed)
    assert not any(fnmatch("evil.example:5000", pattern) for pattern in allowed)


def test_addresses_between_services_name_services() -> None:
    text = COMPOSE.read_text()
    hosts = set(re.findall(r"(?:http://|@)([a-z0-9-]+):\d+", text))
    assert hosts == {"prefect-server", "mlflow", "s3", "postgres"}
    assert hosts <= set(SERVICES)


def test_images_hold_every_package_and_only_what_is_let_through() -> None:
    dockerfile = (ROOT / "deployments" / "Dockerfile").read_text()
    sources = set(re.findall(r"^COPY (\S+) \S+$", dockerfile, flags=re.MULTILINE))
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert sources == let_through
    assert {"model", "tasks", "flows", "deployments"} <= sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, flags=re.MULTILINE))
    assert {item["build"]["target"] for item in SERVICES.values() if "build" in item} == stages
    assert dockerfile.rstrip().endswith("USER app")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in SERVICES["s3-init"]["environment"].items():
        monkeypatch.setenv(name, value)
    with s3_server() as server:
        yield server


def test_bucket_is_made_once(s3: S3Server) -> None:
    assert create_bucket("s3://mlflow", endpoint=s3.url) is True
    assert list(s3.objects) == ["mlflow"]
    assert create_bucket("s3://mlflow", endpoint=s3.url) is False


# What the containers run, as plain processes on a real PostgreSQL.

POSTGRES_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [
    Path(found).parent for found in [shutil.which("initdb")] if found
]


def as_postgres() -> dict[str, Any]:
    """Return what makes a subprocess drop root's rights, which PostgreSQL refuses to run with."""
    return {"user": "postgres"} if os.geteuid() == 0 else {}


@contextmanager
def postgres() -> Iterator[int]:
    """Run PostgreSQL after the init script, and yield its port."""
    programs, port = POSTGRES_PROGRAMS[-1], free_port()
    secret = FILLED_IN["POSTGRES_PASSWORD"]
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="llm-postgres-") as directory:
        home = Path(directory)
        home.chmod(0o777)
        (home / "password").write_text(secret)

        def run(*command: str | Path) -> None:
            subprocess.run(command, cwd=home, check=True, stdout=log, stderr=log, **as_postgres())

        with (home / "log").open("w") as log:
            data = home / "data"
            run(programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256",
                f"--pwfile={home / 'password'}")  # fmt: skip
            settings = {
                "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": home,
            }  # fmt: skip
            options = " ".join(f"-c {name}={value}" for name, value in settings.items())
            run(programs / "pg_ctl", "-D", data, "-w", "-o", options, "start")
            try:
                url = f"postgresql://postgres:{secret}@127.0.0.1:{port}/postgres"
                script = ROOT / "deployments" / "create_databases.sql"
                psql = [programs / "psql", url, "-v", "ON_ERROR_STOP=1", "-f", script]
                subprocess.run(psql, check=True, stdout=log, stderr=log)
                yield port
            finally:
                run(programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


class ComposeProcess:
    """One service of the compose file as a process of this machine."""

    def __init__(self, name: str, port: int, directory: Path, places: Mapping[str, str]) -> None:
        def here(text: str) -> str:
            for old, new in places.items():
                text = text.replace(old, new)
            return text

        program, *options = words(SERVICES[name])
        options[options.index("--port") + 1] = str(port)
        options[options.index("--host") + 1] = "127.0.0.1"
        given = {key: here(value) for key, value in SERVICES[name]["environment"].items()}
        self.url = f"http://127.0.0.1:{port}"
        self.service = Service(
            name,
            [sys.executable, "-m", program, *options],
            environment={**os.environ, **given, "PREFECT_HOME": str(directory / "home")},
            directory=directory,
            logs=directory,
        )

    def wait_until_healthy(self, path: str) -> None:
        while not answers(self.url + path):
            assert self.service.process.poll() is None, self.service.log.read_text()
            time.sleep(0.5)


@pytest.fixture
def start(tmp_path: Path, s3: S3Server) -> Iterator[Callable[[str], ComposeProcess]]:
    create_bucket("s3://mlflow", endpoint=s3.url)
    started: list[ComposeProcess] = []
    with postgres() as port:
        places = {"@postgres:5432": f"@127.0.0.1:{port}", "http://s3:8333": s3.url}

        def start(name: str) -> ComposeProcess:
            started.append(ComposeProcess(name, free_port(), tmp_path, places))
            return started[-1]

        yield start
        for process in started:
            end(process.service, grace_seconds=30, hurry=lambda: False)


needs_postgres = pytest.mark.skipif(not POSTGRES_PROGRAMS, reason="needs PostgreSQL's programs")


@pytest.mark.slow
@needs_postgres
def test_mlflow_service_keeps_runs_in_postgres_and_files_in_s3(
    start: Callable[[str], ComposeProcess], s3: S3Server
) -> None:
    mlflow = start("mlflow")
    mlflow.wait_until_healthy("/health")
    client = MlflowClient(tracking_uri=mlflow.url)
    run = client.create_run(client.create_experiment("compose"))
    client.log_text(run.info.run_id, "kept in a bucket", "notes/a.txt")
    assert b"kept in a bucket" in s3.objects.values()
    assert [item.path for item in client.list_artifacts(run.info.run_id, "notes")] == [
        "notes/a.txt"
    ]

    def status(host: str) -> int:
        request = urllib.request.Request(f"{mlflow.url}/", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert (status("mlflow:5000"), status("evil.example")) == (200, 403)


@pytest.mark.slow
@needs_postgres
def test_prefect_service_runs_on_postgres_and_takes_the_deployments(
    start: Callable[[str], ComposeProcess], tmp_path: Path
) -> None:
    server = start("prefect-server")
    server.wait_until_healthy("/api/ready")
    python, *arguments = words(SERVICES["prefect-init"])
    assert python == "python"
    environment = {
        **os.environ,
        "PREFECT_API_URL": f"{server.url}/api",
        "PREFECT_HOME": str(tmp_path / "client"),
    }
    for _ in range(2):  # the second start of the stack finds everything there
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Deployment 'pretrain/full' successfully created" in done.stdout
