"""Processes of one machine: what ends them with their parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WATCHING = """
import os, sys
from model.core.processes import watch_parent
watch_parent(os.getppid())
print("ready", flush=True)
sys.stdin.read()
"""

CHILD = """
import sys, time
from model.core.processes import end_with_parent
end_with_parent()
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=sys.stdin)
child.wait()
"""


@pytest.mark.parametrize("program", [CHILD, WATCHING])
def test_child_of_a_killed_parent_ends(program: str) -> None:
    if program == CHILD and sys.platform != "linux":
        pytest.skip("only Linux has the parent-death signal")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert parent.stdin
    assert parent.stdout
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        parent.wait()
        assert parent.stdout.read() == ""  # ends only when the child, too, has let go of the pipe
