"""deployments.processes: children are watched through their log and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deployments.processes import Service, end

# A child that ends when asked, and its own child, in another session, that does not.
IGNORES_SIGTERM = """
import signal, subprocess, sys, time
grandchild = subprocess.Popen(
    [sys.executable, "-c",
     "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
     "print('ignores', flush=True); time.sleep(600)"],
    start_new_session=True)
print(grandchild.pid, flush=True)
grandchild.wait()
"""
SAVES_ITS_WORK = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


# A child that kills its own child when it is told to stop, and starts another when that one ends.
KILLS_ITS_CHILD = f"""
import signal, subprocess, sys
child = None
def stop(*_):
    child.kill()
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
while True:
    print("start", flush=True)
    child = subprocess.Popen([sys.executable, "-c", {SAVES_ITS_WORK!r}])
    child.wait()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(program: str) -> Service:
        service = Service(
            f"child{len(started)}",
            [sys.executable, "-c", program],
            environment=os.environ,
            directory=tmp_path,
            logs=tmp_path / "logs",
        )
        started.append(service)
        return service

    yield start
    for service in started:
        end(service, grace_seconds=0, hurry=lambda: True)


def read_until(service: Service, line: str) -> list[str]:
    lines: list[str] = []
    while line not in lines:
        lines += service.new_lines()
        assert service.process.poll() is None, service.last_lines(10)
    return lines


def test_service_lines_come_whole_and_once(start: Callable[..., Service]) -> None:
    service = start("print('one\\ntwo'); print('thr', end='', flush=True); input()")
    service.process.wait()  # stdin is empty, so input() fails: the traceback is in the log as well
    lines = service.new_lines()
    assert lines[:2] == ["one", "two"]
    assert lines[2].startswith("thrTraceback")
    assert service.new_lines() == []
    assert service.last_lines(1) == ["EOFError: EOF when reading a line"]


def test_service_has_a_session_of_its_own(start: Callable[..., Service]) -> None:
    service = start(SAVES_ITS_WORK)
    assert os.getsid(service.process.pid) == service.process.pid


def test_end_waits_for_a_process_that_saves_its_work(start: Callable[..., Service]) -> None:
    service = start(SAVES_ITS_WORK)
    read_until(service, "ready")
    end(service, grace_seconds=60, hurry=lambda: False)
    assert service.process.returncode == 0
    assert service.new_lines() == ["saved"]


def test_end_kills_a_descendant_in_another_session_that_ignores_sigterm(
    start: Callable[..., Service],
) -> None:
    service = start(IGNORES_SIGTERM)
    lines = read_until(service, "ignores")
    grandchild = psutil.Process(int(lines[0]))
    end(service, grace_seconds=60, hurry=lambda: True)
    assert service.process.returncode
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_end_lets_descendants_finish_before_their_parent_may_act(
    start: Callable[..., Service],
) -> None:
    service = start(KILLS_ITS_CHILD)
    before = read_until(service, "ready")
    end(service, grace_seconds=60, hurry=lambda: False)
    assert [*before, *service.new_lines()] == ["start", "ready", "saved"]
    assert service.process.returncode == 3


def test_end_of_what_ended_already_returns(start: Callable[..., Service]) -> None:
    service = start("pass")
    service.process.wait()
    end(service, grace_seconds=60, hurry=lambda: False)
    assert service.descendants() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal")
def test_service_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys\n"
            "from pathlib import Path\n"
            "from deployments.processes import Service\n"
            "service = Service('child', [sys.executable, '-c', 'import time; time.sleep(600)'],\n"
            f"    environment=os.environ, directory=Path('.'), logs=Path({str(tmp_path)!r}))\n"
            "print(service.process.pid, flush=True)\n"
            "service.process.wait()\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs([child], timeout=60)
    assert (len(gone), alive) == (1, [])
