"""pyfunc_model and flavour: MLflow loads and serves what was registered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoTokenizer

from model.config.outputs import ExportModelCounts, ExportModelFacts, ExportModelOutputs
from model.config.trained_model import ExportConfig
from model.core.artifact import Derivation
from model.core.store import ArtifactStore, Work
from model.export.hf_writer import export
from model.export.registry import verify_folder
from model.inference.generate import generate
from model.text.tokenizer import Tokenizer
from tasks.tracking.flavour import write_flavour
from tests.support.servers import free_port
from tests.support.small_model import random_model, small_tokenizer
from tests.support.small_tokenizer import VOCAB_SIZE

ROOT = Path(__file__).parents[3]
MESSAGES = [{"role": "user", "content": "The cat <|im_end|> sat"}]
GREEDY = {"temperature": 0, "max_tokens": 6}
START_TRIES = 240
TRY_SECONDS = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported folder as the MLflow store holds it."""
    home = tmp_path_factory.mktemp("pyfunc")
    small_tokenizer(home / "tokenizer")

    def body(work: Work) -> None:
        network = random_model(vocab_size=VOCAB_SIZE, context_tokens=128)
        export(
            network,
            home / "tokenizer",
            destination=ExportModelOutputs(work.path).folder,
            config=ExportConfig(),
        )
        facts = ExportModelFacts(dtype="float32", gguf="float32", directory="model")
        ExportModelOutputs.record(work, ExportModelCounts(parameters=1), facts)

    store = ArtifactStore(home)
    made = store.build(Derivation(stage=ExportModelOutputs.stage, name="base", version=1), body)
    uploaded = home / "uploaded"
    shutil.copytree(ExportModelOutputs.of(store, made.artifact).folder, uploaded)
    write_flavour(store.path(made.artifact), uploaded)
    assert verify_folder(uploaded, digest=made.content_digest) == made
    return uploaded


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about type hints of its own
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(str(folder))


def expected_answer(folder: Path) -> str:
    """Return what the model says to MESSAGES, with transformers' ids of the conversation."""
    tokenizer = Tokenizer.load(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    plain = [{**turn, "content": turn["content"].replace("<|im_end|>", "X")} for turn in MESSAGES]
    ids = theirs.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    cut = ids.index(tokenizer.encode("X")[0])
    ids[cut : cut + 1] = tokenizer.encode("<|im_end|>")
    network = random_model(vocab_size=VOCAB_SIZE, context_tokens=128)
    output_ids = generate(
        network, ids, num_tokens=6, temperature=0.0, top_k=0, seed=0, stop_ids={0, 2}
    )
    return tokenizer.decode(output_ids)


def test_predict_answers_a_conversation(loaded: Any, folder: Path) -> None:
    answer = loaded.predict({"messages": MESSAGES, **GREEDY})
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected_answer(folder)}
    assert answer["usage"]["completion_tokens"] <= 6
    assert answer["object"] == "chat.completion"


def test_predict_goes_on_with_prompts(loaded: Any) -> None:
    answers = loaded.predict([{"prompt": text, **GREEDY} for text in ("The cat", "In 1984")])
    assert [answer["object"] for answer in answers] == ["text_completion"] * 2
    assert answers[0]["choices"][0]["text"] != answers[1]["choices"][0]["text"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"messages": [{"role": "alien", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": MESSAGES, "prompt": "Hi"}, "and not both"),
        ({"max_tokens": 5}, "give messages, or a prompt"),
        ({"prompt": "Hi", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "Hi", "temprature": 1}, "temprature"),
    ],
)
def test_request_that_cannot_be_answered_names_the_field(
    request_: dict[str, Any], words: str, loaded: Any
) -> None:
    with pytest.raises(Exception, match="the request cannot be answered") as caught:
        loaded.predict(request_)
    assert words in str(caught.value)


def test_flavour_names_files_that_are_there_and_no_build(folder: Path) -> None:
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in requirements)
    assert (folder / "code/model/export/pyfunc_model.py").read_text() == (
        ROOT / "model/export/pyfunc_model.py"
    ).read_text()
    assert not list(folder.rglob("__pycache__")) or (folder / "code").exists()


@pytest.mark.slow
def test_models_serve_answers_over_http(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder),
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it looks for uvicorn there
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path,
            env=os.environ | {"PATH": path},
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                data=json.dumps({"messages": MESSAGES, **GREEDY}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        finally:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.kill()
            process.wait()
    assert answer["choices"][0]["message"]["content"] == expected_answer(folder)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_TRIES):
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            try:
                raise RuntimeError(f"mlflow models serve ended with {process.wait(TRY_SECONDS)}")
            except subprocess.TimeoutExpired:
                continue
    raise RuntimeError("mlflow models serve does not answer")
