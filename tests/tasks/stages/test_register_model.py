"""Registering exported models, against a real local store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect import State, flow

from flows.settings.presets import demo
from model.config.outputs import ScoreModelFacts, ScoreModelOutputs
from model.config.trained_model import ScoreConfig
from model.core.store import ArtifactStore
from tasks.config.run import RegistryConfig
from tasks.stages.generation_prompts import GenerationPromptsOutputs
from tasks.stages.judge_texts import JudgeTextsFacts, JudgeTextsOutputs
from tasks.stages.register_model import (
    WRITING,
    RegisteredModel,
    prompts_digest,
    register_model,
    validation_digest,
    version_tags,
)
from tasks.stages.select_validation import SelectValidationOutputs
from tasks.stages.train_tokenizer import TrainTokenizerOutputs
from tasks.tracking.run import TrackedPipeline, pipeline_run
from tests.support.servers import free_port, local_mlflow_uri
from tests.support.small_pipeline import SmallPipeline, filled, make, make_small_pipeline

pytestmark = [
    # MLflow's own models use what its newest SQLAlchemy deprecates.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture
def experiment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_mlflow_uri())
    return request.node.name


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> RegistryConfig:
    return RegistryConfig(name=request.node.name)


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(tracking_uri=local_mlflow_uri())


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> SmallPipeline:
    return make_small_pipeline(tmp_path, salt=request.node.name)


def open_pipeline(experiment: str) -> Any:
    return pipeline_run(experiment=experiment, name="demo", config=demo(), flow="pretrain")


def register(tracked: TrackedPipeline, small: SmallPipeline, registry: RegistryConfig) -> Any:
    return register_model.fn(
        tracked,
        small.artifact("export_model"),
        scores=[small.artifact("score_model")],
        registry=registry,
        store=small.store,
    )


def test_register_model_uploads_the_exported_folder_and_sets_the_alias(
    small: SmallPipeline,
    experiment: str,
    registry: RegistryConfig,
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    with open_pipeline(experiment) as tracked:
        training_run_id = tracked.complete_training(small.artifact("train_model"), small.store)
        found = register(tracked, small, registry)
    uri = f"models:/{registry.name}/1"
    assert found == RegisteredModel(
        name=registry.name, version=1, alias="candidate", uri=uri, is_new=True
    )
    version = client.get_model_version_by_alias(registry.name, "candidate")
    exported = small.manifests["export_model"]
    assert version.tags == {
        "llm.artifact_key": exported.derivation.key,
        "llm.content_digest": exported.content_digest,
        "bits_per_byte": "1.062500",
        "data.validation_digest": small.manifests["select_validation"].content_digest,
    }
    assert version.run_id == training_run_id
    folder = small.store.path(exported.artifact) / "model"
    files = Path(version.source.removeprefix("file://"))
    for path in folder.iterdir():
        assert (files / path.name).read_text() == path.read_text()
    beside = {path.name for path in files.iterdir()} - {path.name for path in folder.iterdir()}
    assert beside == {
        "MLmodel", "code", "conda.yaml", "manifest.json", "pyfunc_model.py", "python_env.yaml",
        "requirements.txt",
    }  # fmt: skip
    run = client.get_run(tracked.run_id)
    assert run.data.tags["llm.registered_model"] == uri
    assert run.outputs
    (output,) = run.outputs.model_outputs
    assert output.step == 30
    model = client.get_logged_model(output.model_id)
    assert model.status == "READY"
    metrics = {point.key: point.value for point in model.metrics or ()}
    assert metrics["validation/bits_per_byte"] == 1.0


def test_version_tags_hold_what_each_score_was_measured_on(small: SmallPipeline) -> None:
    prompts = make(small.store, GenerationPromptsOutputs, "base")
    scored = make(
        small.store,
        ScoreModelOutputs,
        "asked",
        facts=filled(
            ScoreModelFacts,
            extras={"blimp_acc": 0.75, "blimp_items": "d1", "blimp_islands_acc": 0.5},
            bits_per_byte=0.9,
        ),
        inputs={"prompts": (prompts.artifact,)},
    )
    judged = make(
        small.store,
        JudgeTextsOutputs,
        "asked",
        facts=filled(JudgeTextsFacts, answer_accuracy=0.9),
        inputs={"scores": (scored.artifact,)},
    )
    tags = version_tags(small.manifests["export_model"], [scored, judged], small.store)
    assert {name: tags[name] for name in tags if not name.startswith("llm.")} == {
        "bits_per_byte": "0.900000",
        "blimp_acc": "0.750000",
        "data.items.blimp": "d1",
        "answer_accuracy": "0.900000",
        "data.prompts_digest": prompts_digest(scored, small.store),
    }


def test_judgement_of_texts_says_nothing_of_the_held_out_documents(small: SmallPipeline) -> None:
    scored = small.manifests["score_model"]
    judged = make(small.store, JudgeTextsOutputs, "judged", inputs={"scores": (scored.artifact,)})
    assert validation_digest(scored, small.store) is not None
    assert validation_digest(judged, small.store) is None


def test_texts_compare_only_of_equal_prompts_and_sampling(small: SmallPipeline) -> None:
    def digest(salt: str = "", **settings: object) -> str | None:
        prompts = make(
            small.store, GenerationPromptsOutputs, f"base{salt}", files={"prompts": f"Tom {salt}"}
        )
        score = ScoreConfig().model_copy(update=settings).model_dump(mode="json")
        inputs = {"prompts": (prompts.artifact,)}
        scored = make(
            small.store, ScoreModelOutputs, "asked", config={"score": score}, inputs=inputs
        )
        judged = make(
            small.store, JudgeTextsOutputs, "asked", inputs={"scores": (scored.artifact,)}
        )
        assert prompts_digest(judged, small.store) == prompts_digest(scored, small.store)
        return prompts_digest(judged, small.store)

    assert digest() == digest(validation_tokens=5)  # which writes nothing
    assert set(WRITING) <= set(ScoreConfig.model_fields)
    others = [digest(**{name: 7}) for name in WRITING] + [digest("other")]
    assert len({digest(), *others}) == len(WRITING) + 2
    assert prompts_digest(small.manifests["score_model"], small.store) is None


def test_register_model_again_uploads_nothing_and_is_cached(
    small: SmallPipeline, experiment: str, registry: RegistryConfig, client: MlflowClient
) -> None:
    with open_pipeline(experiment) as tracked:
        first = register(tracked, small, registry)
    with open_pipeline(experiment) as tracked:
        second = register(tracked, small, registry)
    assert isinstance(second, State)
    assert second.name == "Cached"
    assert second.data == first.model_copy(update={"is_new": False})
    assert len(client.search_model_versions(f"name = '{registry.name}'")) == 1
    assert client.get_run(tracked.run_id).data.tags["llm.registered_model"] == first.uri


def test_version_says_what_was_judged_after_its_card_and_is_updated(
    small: SmallPipeline, experiment: str, registry: RegistryConfig, client: MlflowClient
) -> None:
    def measure(round_: str, **facts: Any) -> RegisteredModel:
        prompts = make(small.store, GenerationPromptsOutputs, round_, files={"prompts": round_})
        scored = make(
            small.store, ScoreModelOutputs, round_, inputs={"prompts": (prompts.artifact,)}
        )
        judged = make(
            small.store,
            JudgeTextsOutputs,
            round_,
            facts=filled(JudgeTextsFacts, **facts),
            inputs={"scores": (scored.artifact,)},
        )
        found = register_model.fn(
            tracked,
            small.artifact("export_model"),
            scores=[scored.artifact, judged.artifact],
            registry=registry,
            store=small.store,
        )
        return found.data if isinstance(found, State) else found

    with open_pipeline(experiment) as tracked:
        assert measure("one", grammar_accepted=0.5, answer_accuracy=0.25).is_new
        before = client.get_model_version(registry.name, "1")
        assert not measure("two", grammar_accepted=0.75).is_new
    after = client.get_model_version(registry.name, "1")
    assert "| judge_texts: grammar_accepted | 0.5000 |" in before.description
    assert "| judge_texts: grammar_accepted | 0.7500 |" in after.description
    assert before.tags["answer_accuracy"] == "0.250000"
    assert before.tags["grammar_accepted"] == "0.500000"
    assert after.tags["grammar_accepted"] == "0.750000"
    assert "answer_accuracy" not in after.tags  # of other prompts than the version's tag says
    assert after.tags["data.prompts_digest"] != before.tags["data.prompts_digest"]


def test_register_model_of_other_content_is_the_next_version(
    experiment: str, registry: RegistryConfig, client: MlflowClient, tmp_path: Path
) -> None:
    one, two = (make_small_pipeline(tmp_path / salt, salt=salt) for salt in ("one", "two"))
    with open_pipeline(experiment) as tracked:
        assert register(tracked, one, registry).version == 1
        assert register(tracked, two, registry).version == 2
        assert client.get_registered_model(registry.name).aliases == {"candidate": 2}
        back = register(tracked, one, registry)
    assert back.data.version == 1
    assert client.get_registered_model(registry.name).aliases == {"candidate": 1}


def test_register_model_under_another_alias_keeps_the_first(
    small: SmallPipeline, experiment: str, registry: RegistryConfig, client: MlflowClient
) -> None:
    with open_pipeline(experiment) as tracked:
        register(tracked, small, registry)
        register(tracked, small, registry.model_copy(update={"alias": "champion"}))
    aliases = client.get_registered_model(registry.name).aliases
    assert aliases == {"candidate": 1, "champion": 1}


def test_register_model_without_a_store_warns_and_returns_nothing(
    small: SmallPipeline,
    registry: RegistryConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with caplog.at_level(logging.WARNING), open_pipeline("any") as tracked:
        assert register(tracked, small, registry) is None
    assert "opening a run" in caplog.text


def test_register_model_in_a_flow_shows_as_cached_the_second_time(
    small: SmallPipeline, experiment: str, registry: RegistryConfig, prefect_api: None
) -> None:
    states: list[State[Any]] = []

    @flow(name="small-registering")
    def registering() -> None:
        with open_pipeline(experiment) as tracked:
            state = register_model(
                tracked,
                small.artifact("export_model"),
                scores=[small.artifact("score_model")],
                registry=registry,
                store=small.store,
                return_state=True,
            )
            states.append(state)

    registering()
    registering()
    first, second = states
    assert (first.name, second.name) == ("Completed", "Cached")
    assert second.result().uri == f"models:/{registry.name}/1"


def test_nearest_looks_through_all_levels_and_past_pruned_ones(small: SmallPipeline) -> None:
    scores = small.manifests["score_model"]
    found = SelectValidationOutputs.nearest(scores, small.store)
    assert found == small.manifests["select_validation"]
    assert TrainTokenizerOutputs.nearest(scores, small.store) is None
    elsewhere = ArtifactStore(small.store.root / "empty")
    assert SelectValidationOutputs.nearest(scores, elsewhere) is None
