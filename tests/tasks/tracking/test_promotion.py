"""Promotion: the gate, the aliases, and the way back, on a real local store."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect import State

from flows.promote import main
from flows.settings.presets import demo
from model.core.errors import PromotionError, RegistryError
from tasks.config.evaluation import PINNED_SCORES, PinnedScore
from tasks.config.run import RegistryConfig
from tasks.stages.promote_candidate import promote_candidate
from tasks.stages.promote_model import promote_model
from tasks.stages.register_model import RegisteredModel
from tasks.tracking.promotion import compare, promote, roll_back
from tasks.tracking.run import pipeline_run
from tests.support.servers import local_mlflow_uri

pytestmark = [
    # MLflow's own models use what its newest SQLAlchemy deprecates.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
DATA = "data.validation_digest"
ACCURACY = PinnedScore(name="accuracy", better="higher", tolerance=0.01)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    return MlflowClient(tracking_uri=local_mlflow_uri())


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name)


def add_version(client: MlflowClient, name: str, **tags: object) -> int:
    """Register a version without files and make it the candidate."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    texts = {key.replace("validation", DATA): str(value) for key, value in tags.items()}
    version = client.create_model_version(name, source="file:///nowhere", tags=texts)
    client.set_registered_model_alias(name, "candidate", version.version)
    return int(version.version)


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    found = client.get_registered_model(name).aliases
    return {key: int(value) for key, value in found.items() if key != "candidate"}


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ({"accuracy": 0.50, DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "no worse"),
        ({"accuracy": 0.60, DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "no worse"),
        ({"accuracy": 0.495, DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "no worse"),
        ({"accuracy": 0.48, DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "worse"),
        ({"accuracy": "nan", DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "worse"),
        ({"accuracy": 0.60, DATA: "d"}, {"accuracy": 0.50, DATA: "e"}, "on other data"),
        ({"accuracy": 0.60}, {"accuracy": 0.50}, "on other data"),
        ({DATA: "d"}, {"accuracy": 0.50, DATA: "d"}, "not measured"),
        ({"accuracy": 0.60, DATA: "d"}, {DATA: "d"}, "new"),
    ],
)
def test_compare_judges_one_score(mine: Any, theirs: Any, verdict: str) -> None:
    texts = [{key: str(value) for key, value in tags.items()} for tags in (mine, theirs)]
    (found,) = compare(texts[0], texts[1], scores=[ACCURACY])
    assert found.verdict == verdict


def test_compare_leaves_out_scores_that_neither_has() -> None:
    assert compare({DATA: "d"}, {DATA: "d"}) == ()


def test_scores_compare_where_their_own_items_are_equal() -> None:
    tags = {"blimp_acc": "0.7", "data.items.blimp": "d", "data.items.piqa": "x"}
    (same,) = compare(tags, tags | {"data.items.piqa": "y"})
    assert same.verdict == "no worse"
    (other,) = compare(tags, tags | {"data.items.blimp": "e"})
    assert other.verdict == "on other data"
    (worse,) = compare(tags | {"blimp_acc": "0.6"}, tags)
    assert worse.verdict == "worse"


def test_bits_per_byte_are_pinned_lower_is_better() -> None:
    (score,) = (item for item in PINNED_SCORES if item.name == "bits_per_byte")
    tags = [{"bits_per_byte": str(value), DATA: "d"} for value in (1.0, 1.0 + 2 * score.tolerance)]
    assert compare(tags[0], tags[1])[0].verdict == "no worse"
    assert compare(tags[1], tags[0])[0].verdict == "worse"


def test_first_version_is_promoted(client: MlflowClient, name: str) -> None:
    add_version(client, name)  # without any score
    done = promote(client, name)
    assert (done.version, done.champion_before, done.outcome) == (1, None, "promoted")
    assert aliases(client, name) == {"champion": 1}
    assert promote(client, name).outcome == "already champion"


def test_better_version_takes_over_and_roll_back_goes_all_the_way_back(
    client: MlflowClient, name: str
) -> None:
    for bits in (1.2, 1.1, 1.0):
        add_version(client, name, bits_per_byte=bits, validation="d")
        promote(client, name)
    assert aliases(client, name) == {"champion": 3, "previous": 2}
    assert roll_back(client, name).version == 2
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    assert roll_back(client, name).version == 1
    assert aliases(client, name) == {"champion": 1}
    with pytest.raises(RegistryError, match="no champion to go back to"):
        roll_back(client, name)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"bits_per_byte": 1.3, "validation": "d"}, "1.300000 against the champion's 1.200000"),
        ({"bits_per_byte": 1.0, "validation": "e"}, "on other data"),
        ({"validation": "d"}, "bits_per_byte none against"),
    ],
)
def test_version_that_is_worse_or_not_comparable_is_refused_unless_forced(
    tags: dict[str, object], words: str, client: MlflowClient, name: str
) -> None:
    add_version(client, name, bits_per_byte=1.2, validation="d")
    promote(client, name)
    version = add_version(client, name, **tags)
    with pytest.raises(PromotionError, match="does not take over") as caught:
        promote(client, name)
    assert words in str(caught.value)
    assert "--force" in str(caught.value)
    assert aliases(client, name) == {"champion": 1}
    assert promote(client, name, version=version, force=True).outcome == "promoted"
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    assert client.get_model_version(name, "2").tags["llm.promotion_forced"] == "true"


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({}, "blimp_acc none against the champion's 0.700000"),
        ({"blimp_acc": 0.6, "data.items.blimp": "other"}, "on other data, passed over"),
    ],
)
def test_optional_score_that_does_not_compare_is_passed_over_and_said(
    tags: dict[str, object], said: str, client: MlflowClient, name: str
) -> None:
    asked = {"blimp_acc": 0.7, "data.items.blimp": "d"}
    add_version(client, name, bits_per_byte=1.2, validation="d", **asked)
    promote(client, name)
    add_version(client, name, bits_per_byte=1.1, validation="d", **tags)
    done = promote(client, name)
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    assert said in done.text()
    assert "passed over" in done.text()


def test_optional_score_that_is_worse_on_equal_data_is_refused(
    client: MlflowClient, name: str
) -> None:
    asked = {"bits_per_byte": 1.0, "validation": "d", "data.items.blimp": "d"}
    add_version(client, name, **asked, blimp_acc=0.7)
    promote(client, name)
    add_version(client, name, **asked, blimp_acc=0.6)
    with pytest.raises(PromotionError, match="does not take over") as caught:
        promote(client, name)
    assert "blimp_acc 0.600000 against the champion's 0.700000" in str(caught.value)
    assert "passed over" not in str(caught.value)


def test_unknown_model_and_version_are_errors(client: MlflowClient, name: str) -> None:
    with pytest.raises(RegistryError, match="no registered model nobody"):
        promote(client, "nobody")
    add_version(client, name)
    with pytest.raises(RegistryError, match=rf"(?s)found: .*{name}.*--name"):
        promote(client, "nobody")
    with pytest.raises(RegistryError, match="has no version 9"):
        promote(client, name, version=9)
    client.delete_registered_model_alias(name, "candidate")
    with pytest.raises(RegistryError, match="has no version candidate"):
        promote(client, name)


def test_pipeline_reports_a_refusal_and_goes_on(
    client: MlflowClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for bits in (1.2, 1.3):
        add_version(client, name, bits_per_byte=bits, validation="d")
    promote(client, name, version=1)
    registered = RegisteredModel(
        name=name, version=2, alias="candidate", uri=f"models:/{name}/2", is_new=True
    )
    with (
        caplog.at_level(logging.WARNING),
        pipeline_run(experiment=name, name="demo", config=demo(), flow="pretrain") as tracked,
    ):
        ask = promote_candidate.fn
        refused = ask(tracked, registered, registry=RegistryConfig(name=name))
        never = ask(tracked, registered, registry=RegistryConfig(name=name, promote="never"))
    assert isinstance(refused, State)
    assert refused.name == "Refused"
    assert never is None
    assert "1.300000 against the champion's 1.200000" in caplog.text
    assert aliases(client, name) == {"champion": 1}
    tags = client.get_run(tracked.run_id).data.tags
    assert tags["llm.promotion"].startswith("refused: bits_per_byte 1.300000")


def test_task_promotes_and_goes_back(client: MlflowClient, name: str) -> None:
    for _ in range(2):
        add_version(client, name, bits_per_byte=1.2, validation="d")
    promote_model.fn(name, version=1)
    promote_model.fn(name)
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    promote_model.fn(name, back=True)
    assert aliases(client, name) == {"champion": 1}


def test_task_without_a_store_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(RegistryError, match="cannot be reached"):
        promote_model.fn("any")
    assert not (tmp_path / "mlflow.db").exists()


def test_command_promotes_and_says_what_it_refuses(
    client: MlflowClient, name: str, prefect_api: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for bits in (1.2, 1.3):
        add_version(client, name, bits_per_byte=bits, validation="d")
    main(["--name", name, "--version", "1"])
    assert aliases(client, name) == {"champion": 1}
    with pytest.raises(SystemExit) as ended:
        main(["--name", name])
    assert ended.value.code == 2
    assert "1.300000 against the champion's 1.200000" in capsys.readouterr().err
