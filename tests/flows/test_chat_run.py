"""From a base model to a chat model that answers, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.export.hf_reader import load_pretrained
from model.export.registry import fetch, find_version
from model.inference.generate import generate, prompt_ids
from model.train.events import read_events
from tests.support.flow_process import SMALL_CHAT, Home, built_at, digests, run_flow, running_flow
from tests.support.small_chats import turns, write_jsonl
from tests.support.small_export import chat_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

CHAT_STAGES = {"read_chats", "write_chat_shards", "talk_to_model"}


def chat_settings(home: Home, **settings: object) -> dict[str, object]:
    chats = [
        turns(f"Tom {number} had a red kite.", "A kite.", "Thanks!", "Bye.")
        for number in range(120)
    ]
    path = home.directory / "chats.jsonl"
    if not path.exists():
        write_jsonl(path, chats)
    sets = {"mine": str(path)}
    small = {name.replace(".", "__"): value for name, value in SMALL_CHAT.items()}
    return small | {"chat__sets": json.dumps(sets), "chat__weights": '{"mine": 2}'} | settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return the home of a small pretraining that went on to a chat model; not to be changed."""
    home = Home(tmp_path_factory.mktemp("finished"))
    done = run_flow(home, "pretrain", **chat_settings(home, then_finetune="true"))
    assert done.returncode == 0, done.stdout + done.stderr
    (home.directory / "said").write_text(done.stdout + done.stderr)
    return home


@pytest.fixture
def copied(finished: Home, tmp_path: Path) -> Home:
    """Return a copy of the finished run's home."""
    shutil.copytree(finished.directory, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


def counts_of(home: Home, stage: str) -> dict[str, dict[str, int]]:
    return {item.artifact.name: item.counts for item in home.store.manifests(stage)}


def test_run_ends_with_a_conversation_and_both_models_registered(finished: Home) -> None:
    said = (finished.directory / "said").read_text()
    assert "where the conversations went" in said
    conversation = said.partition("a conversation with the chat model:")[2]
    assert "> Hello! Who are you?" in conversation
    versions = {
        name: find_version(name, uri=finished.mlflow_uri) for name in ("demo-base", "demo-chat")
    }
    assert versions["demo-base"].digest != versions["demo-chat"].digest
    assert "bits_per_byte" in versions["demo-chat"].tags
    tags = [version.tags["data.validation_digest"] for version in versions.values()]
    assert tags[0] != tags[1]


def test_counts_add_up_from_records_to_rows(finished: Home) -> None:
    read = counts_of(finished, "read_chats")["mine"]
    shards = counts_of(finished, "write_chat_shards")
    assert read["num_in"] == read["num_training"] + read["num_held_out"] == 120
    for name, count in (("training-mine", "num_training"), ("validation", "num_held_out")):
        assert shards[name]["num_in"] == shards[name]["num_kept"] + shards[name]["too_long"]
        assert shards[name]["num_in"] == read[count] > 0


def test_mlflow_has_the_chat_model_in_a_run_within_the_pipelines(finished: Home) -> None:
    client = MlflowClient(finished.mlflow_uri)
    (experiment,) = [
        item for item in client.search_experiments() if item.name == "llm-from-scratch"
    ]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id = {run.info.run_id: run for run in runs}
    (part,) = [run for run in runs if run.data.tags.get("llm.flow") == "finetune"]
    assert by_id[part.data.tags["mlflow.parentRunId"]].data.tags["llm.flow"] == "pretrain"
    (training,) = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == part.info.run_id
    ]
    assert training.info.run_name == "train_model-chat"
    files = {item.path for item in client.list_artifacts(training.info.run_id)}
    assert "samples.json" in files
    files = {item.path for item in client.list_artifacts(part.info.run_id)}
    assert {"conversation.txt", "conversations.json", "samples.txt", "loss.png"} <= files
    assert {item.dataset.name for item in part.inputs.dataset_inputs} >= {
        "write_chat_shards/training-mine", "write_chat_shards/validation",
    }  # fmt: skip


def test_samples_of_every_prompt_are_in_the_events(finished: Home) -> None:
    (trained,) = finished.data.glob("train_model/chat-*")
    samples = [
        event for event in read_events(trained / "events.jsonl") if event["kind"] == "sample"
    ]
    assert [event["step"] for event in samples] == [6, 12]
    assert all(len(event["samples"]) == 4 for event in samples)


def test_model_card_names_the_base_and_the_conversations(finished: Home) -> None:
    version = find_version("demo-chat", uri=finished.mlflow_uri)
    folder = fetch(version, cache=finished.directory / "cache", uri=finished.mlflow_uri)
    card = (folder / "README.md").read_text()
    assert "### chat" in card
    assert "### base" in card
    assert "local files" in card


def test_registered_chat_model_answers_over_the_api(finished: Home, tmp_path: Path) -> None:
    version = find_version("demo-chat", uri=finished.mlflow_uri)
    folder = fetch(version, cache=tmp_path, uri=finished.mlflow_uri)
    said = "Tom had a red kite."
    with chat_server(folder) as server:
        body = {
            "model": server.host.loaded.name,
            "messages": [{"role": "user", "content": said}],
            "max_tokens": 8,
            "temperature": 0,
            "repetition_penalty": 1,
        }
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    pretrained = load_pretrained(folder)
    written = generate(
        pretrained.model,
        prompt_ids(said, pretrained.tokenizer, style="chat"),
        num_tokens=8,
        temperature=0,
        top_k=0,
        seed=0,
        stop_ids=pretrained.stop_ids,
    )
    assert answer["choices"][0]["message"] == {
        "role": "assistant", "content": pretrained.tokenizer.decode(written),
    }  # fmt: skip
    assert 0 < answer["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize("base", ["", "train_model/base", "models:/demo-base@champion"])
def test_flow_finetune_of_the_same_base_finds_everything_made(copied: Home, base: str) -> None:
    before = built_at(copied)
    done = run_flow(
        copied, "finetune", **chat_settings(copied, finetune__base=base or json.dumps(""))
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert built_at(copied) == before
    assert "a conversation with the chat model:" in done.stdout + done.stderr


def test_finetuning_killed_and_run_again_is_as_if_it_never_was(
    finished: Home, copied: Home
) -> None:
    settings = chat_settings(copied)
    for stage in CHAT_STAGES:
        shutil.rmtree(copied.data / stage)
    for path in [*copied.data.glob("*/chat-*")]:
        shutil.rmtree(path)
    with running_flow(copied, "finetune", **settings) as process:
        wait_for_checkpoint(copied, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not list(copied.data.glob("train_model/chat-*[0-9a-f]"))
    assert run_flow(copied, "finetune", **settings).returncode == 0
    assert digests(copied) == digests(finished)
    (trained,) = copied.data.glob("train_model/chat-*")
    assert "resume" in {event["kind"] for event in read_events(trained / "events.jsonl")}


def wait_for_checkpoint(home: Home, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        for events in home.data.glob("train_model/chat-*.work/events.jsonl"):
            if "checkpoint" in {event["kind"] for event in read_events(events)}:
                return
        time.sleep(0.002)
    pytest.fail("the training ended before it could be killed")
