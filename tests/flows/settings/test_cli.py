"""The command line of the flows: settings, dry runs, and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.configured import run_command
from flows.pretrain import PRETRAIN, pretrain
from flows.settings.cli import read_command
from flows.settings.config import PrepareConfig, PretrainConfig
from flows.settings.overrides import parse_settings
from model.core.errors import ConfigError
from tests.support.flow_process import ROOT, Home, command


def run(*arguments: str) -> None:
    asked = read_command(PretrainConfig, "__main__", None, arguments=arguments)
    assert asked
    run_command(PRETRAIN, asked)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data root of this test, which is not there yet."""
    monkeypatch.setenv("LLM_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


def test_settings_are_json_or_text() -> None:
    settings = ["train.steps=100", "source.kind=local", 'source.columns={"text": "body"}']
    assert parse_settings(settings) == {
        "train": {"steps": 100},
        "source": {"kind": "local", "columns": {"text": "body"}},
    }


def test_settings_of_groups_within_groups_and_of_none() -> None:
    settings = ["finetune.train.steps=9", "finetune.base=x", "then_finetune=false"]
    assert parse_settings(settings, alone=["then_finetune"]) == {
        "finetune": {"train": {"steps": 9}, "base": "x"},
        "then_finetune": False,
    }


@pytest.mark.parametrize(
    "setting", ["train.steps", "steps=3", "train.=3", ".steps=3", "finetune..steps=3"]
)
def test_setting_of_another_form_says_which_form(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"group\.field=value"):
        parse_settings([setting])


def test_value_for_a_group_is_refused_before_a_setting_within_it() -> None:
    with pytest.raises(ConfigError, match=r"(?s)finetune\.train is a group.*finetune\.train=5"):
        parse_settings(["finetune.train=5", "finetune.train.steps=3"])
    settings = ['finetune.train={"epochs": 1}', "finetune.train.seed=3"]
    assert parse_settings(settings) == {"finetune": {"train": {"epochs": 1, "seed": 3}}}


def test_dry_run_prints_settings_and_plan_and_runs_nothing(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*command("pretrain", "--dry-run")[3:])
    said = capsys.readouterr().out
    assert "train.steps = 12" in said
    for words in ("never made", "new on disk", "6,144 tokens", "FLOPs", "tokens/s"):
        assert words in said
    assert not (data / "train_model").exists()
    run(*command("pretrain", "--dry-run", "--why")[3:])
    assert "would be made:\n  never made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.stepz=3"], "the nearest is 'train.steps'"),
        (["train.steps=3", "train.tokens=9"], "exactly one horizon"),
        (["source.max_documents=null"], "null does not unset"),
        (["source.kind=local", "source.path=no/such/folder"], "no/such/folder"),
        (["chat.sets=my/chats.jsonl"], """'{"<name>": <value>}', in quotes"""),
        (["finetune.talk.turns=Hello"], "a JSON list"),
        (["chat.kind=sets", 'chat.sets={"mine": "no/such/chats.jsonl"}'], "chat set mine"),
        (["finetune.base=train_model/base-0123"], "no finetune.base"),
    ],
)
@pytest.mark.usefixtures("data")
def test_run_with_a_mistake_exits_2_and_says_what_to_do(
    settings: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(SystemExit) as caught:
        run("--preset", "demo", "--dry-run", *sets)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in said
    assert "what to do:" in said


def test_why_without_a_plan_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--preset", "demo", "--why")
    assert ended.value.code == 2
    assert "--why says more about a plan" in capsys.readouterr().err


@pytest.mark.usefixtures("data")
def test_run_that_the_disk_cannot_hold_is_refused_before_it_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stories = 10**12  # 250 TB of them
    with pytest.raises(SystemExit) as caught:
        run("--preset", "demo", "--set", f"source.demo_documents={stories}")
    assert caught.value.code == 2
    assert "the disk cannot hold this run" in capsys.readouterr().err


def test_command_starts_without_what_takes_long_to_import_and_may_not_be_needed() -> None:
    slow = ("matplotlib", "prefect.server.api.server", "torch", "transformers")
    check = f"import sys, flows.pretrain; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--set", "trian.steps=3"]])
def test_help_and_wrong_settings_import_neither_prefect_nor_a_stage(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.pretrain", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not {name for name in imported if name.startswith(("prefect", "tasks.stages", "numpy"))}
    assert "--preset" in done.stdout or "the nearest is 'train'" in done.stderr


def test_flow_parameters_are_a_preset_and_the_groups_of_the_config() -> None:
    properties = pretrain.parameters.properties
    assert set(properties) == set(PretrainConfig.model_fields)
    assert set(PrepareConfig.model_fields) < set(properties)


def test_run_whose_prefect_server_is_too_slow_to_start_says_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path, from_nothing=True)
    done = subprocess.run(
        command("prepare"),
        cwd=ROOT,
        env=home.environment() | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the temporary Prefect server did not start; nothing was run" in done.stderr
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in done.stderr
    assert "Traceback" not in done.stderr
