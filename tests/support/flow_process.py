"""Flows as their users run them: one command in a process of its own, with a home of its own.

The flows of a test process share one Prefect server, but for those of a home that begins from
nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.core.store import ArtifactStore
from tests.support.servers import new_mlflow_store, shared_prefect_api

ROOT = Path(__file__).parents[2]
NO_API = "http://127.0.0.1:1/api"  # nothing answers there: a run starts a server of its own
PRETRAIN_STAGES = (
    "download",
    "select_validation",
    "filter_documents",
    "signatures",
    "train_tokenizer",
    "duplicate_clusters",
    "tokenise",
    "write_shards",
    "report_corpus",
    "train_model",
    "generation_prompts",
    "score_model",
    "judge_texts",
    "export_model",
)
MADE_OF_THE_MODEL = ("train_model", "score_model", "judge_texts", "export_model")  # itself included

# The demo preset, shrunk until a run takes seconds.
SMALL = {
    "source.demo_documents": 900,
    "evaluation.num_generations": 4,
    "evaluation.num_questions": 4,
    "source.demo_shards": 2,
    "validation.num_documents": 40,
    "tokenizer.vocab_size": 512,
    "tokenizer.num_files": 1,
    "model.context_tokens": 64,
    "train.steps": 12,
    "train.batch_tokens_per_step": 512,
    "train.cpu_processes": 1,
    "train.micro_batch_rows": 4,
    "train.validate_every_steps": 6,
    "train.checkpoint_every_steps": 4,
    "score.sample_tokens": 8,
    "then_finetune": "false",
}
# What the flow finetune, and a pretraining that goes on with it, needs beside.
SMALL_CHAT = {
    "chat.kind": "sets",
    "chat.held_out_frac": 0.1,
    "finetune.train.steps": 12,
    "finetune.train.batch_tokens_per_step": 512,
    "finetune.train.cpu_processes": 1,
    "finetune.train.micro_batch_rows": 4,
    "finetune.train.validate_every_steps": 6,
    "finetune.train.checkpoint_every_steps": 4,
    "finetune.talk.answer_tokens": 8,
}


@dataclass(frozen=True)
class Home:
    """The places one user's runs write to."""

    directory: Path
    from_nothing: bool = False  # its first run makes its databases, each starts its own server

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.data)

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.directory / 'mlflow.db'}"

    def environment(self) -> dict[str, str]:
        """Return what its runs find in the environment, after making what that names."""
        if not self.from_nothing:
            new_mlflow_store(self.directory / "mlflow.db")
        return os.environ | {
            "LLM_DATA_ROOT": str(self.data),
            "PREFECT_HOME": str(self.directory / "prefect"),
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "PREFECT_API_URL": NO_API if self.from_nothing else shared_prefect_api(),
            "OMP_NUM_THREADS": "1",
        }


def copy_of(source: Home, directory: Path, *, without: Sequence[str]) -> Home:
    """Return a home that has what another one's runs made, but for what is named or begins so."""
    names = [pattern for name in without for pattern in (name, f"{name}-*")]
    ignore = shutil.ignore_patterns("runs", *names)
    shutil.copytree(source.data, directory / "data", symlinks=True, ignore=ignore)
    return Home(directory)


def command(flow: str, *arguments: str, preset: str = "demo", **settings: object) -> list[str]:
    """Return the command line of a flow.

    Args:
        settings: ``group__field=value``; ``None`` leaves out what would be set here.
    """
    small = SMALL if preset == "demo" else {}
    left_out = {
        "prepare": ("train.", "score.", "evaluation.", "then_finetune"),
        "publish": ("train.", "score.", "evaluation.", "then_finetune"),
        "sweep": ("train.steps", "score.", "evaluation.", "then_finetune"),
        "finetune": ("then_finetune",),
    }
    small = {  # settings the flow does not have
        name: value for name, value in small.items() if not name.startswith(left_out.get(flow, ()))
    }
    chosen = small | {name.replace("__", "."): value for name, value in settings.items()}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    sets = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", f"flows.{flow}", "--preset", preset, *sets, *arguments]


def run_flow(
    home: Home, flow: str, *arguments: str, preset: str = "demo", **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a flow to its end and return what it printed."""
    return subprocess.run(
        command(flow, *arguments, preset=preset, **settings),
        cwd=ROOT,
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def running_flow(home: Home, flow: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a flow in a process group of its own; whatever is left of it at the end is killed."""
    with (home.directory / "flow.log").open("ab") as log:
        process = subprocess.Popen(
            command(flow, **settings),
            cwd=ROOT,
            env=home.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_work(home: Home, stage: str, process: subprocess.Popen[bytes]) -> bool:
    """Return whether a stage began to make something, when it does or the process ends.

    A stage of milliseconds may be done before anyone looks.
    """
    before = set((home.data / stage).glob("*"))
    while process.poll() is None:
        found = set((home.data / stage).glob("*"))
        if found - before or any(path.suffix == ".work" for path in found):
            return True
        time.sleep(0.001)
    return False


def digests(home: Home) -> dict[str, str]:
    """Return the content digest of every artifact by stage and name."""
    return {
        f"{item.artifact.stage}/{item.artifact.name}": item.content_digest
        for item in home.store.manifests()
    }


def built_at(home: Home) -> dict[str, str]:
    return {item.artifact.relative_path: item.origin.created_at for item in home.store.manifests()}
