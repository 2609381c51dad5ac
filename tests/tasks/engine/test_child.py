"""Child processes of stages: their errors arrive as ours, and none is left behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from model.config.trained_model import ScoreConfig
from model.core.artifact import Derivation
from model.core.errors import ChildError
from model.core.store import ArtifactStore, Work
from tasks.engine.child import Child

MODULE = "child_stub"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    store = ArtifactStore(tmp_path)
    derivation = Derivation(stage="train_model", name="m", version=1)
    return Work(store.work_path(derivation.artifact), derivation, store)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a module file that a child can run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / f"{MODULE}.py"


def test_child_that_succeeds_gets_its_config_and_leaves_no_launch_directory(
    work: Work, stub: Path, tmp_path: Path
) -> None:
    stub.write_text(
        "import sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(open(sys.argv[2]).read())\n"
    )
    child = Child(work, ScoreConfig(seed=7))
    child.run(MODULE)
    assert '"seed": 7' in (tmp_path / "seen").read_text()
    assert not child.directory.exists()


def test_child_that_crashes_raises_with_its_last_lines(work: Work, stub: Path) -> None:
    stub.write_text("raise SystemError('the stub broke')")
    with pytest.raises(ChildError, match="the stub broke") as caught:
        Child(work, ScoreConfig()).run(MODULE)
    assert caught.value.problem == f"{MODULE} ended with exit code 1"
    assert Path(caught.value.where).exists()


def test_child_that_reports_an_error_raises_its_words(work: Work, stub: Path) -> None:
    stub.write_text(
        "import sys, json, pathlib\n"
        "error = dict(type='TrainingError', problem='too few tokens', expected='9', found='3')\n"
        "error |= dict(is_lasting=True)\n"
        "path = pathlib.Path(sys.argv[2]).parent / 'result.json'\n"
        "path.write_text(json.dumps(dict(state='failed', error=error)))\n"
        "sys.exit(1)\n"
    )
    with pytest.raises(ChildError, match=r"(?s)too few tokens.*expected: 9.*found: 3"):
        Child(work, ScoreConfig()).run(MODULE)


def test_child_that_was_interrupted_says_that_it_will_go_on(work: Work, stub: Path) -> None:
    stub.write_text(
        "import sys, json, pathlib\n"
        "path = pathlib.Path(sys.argv[2]).parent / 'result.json'\n"
        "path.write_text(json.dumps(dict(state='interrupted', step=7)))\n"
        "sys.exit(75)\n"
    )
    with pytest.raises(ChildError, match=r"(?s)saved its work at step 7.*it resumes there"):
        Child(work, ScoreConfig()).run(MODULE)


@pytest.mark.usefixtures("interruptible")
def test_child_is_stopped_when_its_watcher_is_interrupted(work: Work, stub: Path) -> None:
    stub.write_text("import time\ntime.sleep(60)")
    others = {child.pid for child in psutil.Process().children()}
    pids: list[int] = []

    def watch() -> None:
        if not pids:
            pids.extend({child.pid for child in psutil.Process().children()} - others)
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        Child(work, ScoreConfig()).run(MODULE, watch=watch)
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)
