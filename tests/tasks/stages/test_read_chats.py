"""Stage read_chats: sets here, on a hub, and the demo's own; what their keys depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.settings.config import ChatModelConfig, PretrainConfig
from flows.settings.overrides import merged_config
from flows.settings.resolve import ResolvedRun, resolve_config
from model.core.artifact import Manifest
from model.core.errors import ConfigError, LLMError, SourceError, TransientDownloadError
from model.core.store import ArtifactStore
from tasks.config.chat import ChatConfig
from tasks.corpus.sources.hub_client import MAX_ATTEMPTS
from tasks.corpus.sources.named_sets import ListedSet
from tasks.engine.pipeline import Pipeline
from tasks.engine.record_sets import ReadSet, RecordShardsFacts
from tasks.engine.stage import ResourceShare
from tasks.stages.read_chats import build, chat_sets, read_chats
from tasks.stages.register_model import chat_validation_digest
from tasks.stages.write_chat_shards import WriteChatShardsCounts, WriteChatShardsOutputs
from tests.support.hub_pages import hub_environment
from tests.support.hub_server import HubServer
from tests.support.settings import plan_of
from tests.support.small_chats import turns, write_jsonl, write_parquet
from tests.support.small_pipeline import filled
from tests.support.small_pipeline import make as make_artifact

REVISION = "89abcdef01234567" * 2 + "89abcdef"
CHATS = [turns(f"Question {number}", f"Answer {number}.") for number in range(60)]
SHARE = ResourceShare(threads=1, memory_bytes=10**9)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data")


def listed(chat: ChatConfig, store: ArtifactStore, *, seed: int = 1) -> dict[str, ReadSet]:
    return dict(chat_sets(chat, data_seed=seed, store=store))


def make(store: ArtifactStore, name: str, config: ReadSet) -> Manifest:
    derivation = read_chats.derive(name, config=config, inputs={})
    return store.build(derivation, lambda work: build(work, config, SHARE), resume=True)


def key(name: str, config: ReadSet) -> str:
    return read_chats.derive(name, config=config, inputs={}).key


def texts(store: ArtifactStore, manifest: Manifest, name: str) -> list[str]:
    table = pq.read_table(store.path(manifest.artifact) / name)
    return [row["messages"][0]["content"] for row in table.to_pylist()]


def test_local_set_is_read_and_its_counts_add_up(tmp_path: Path, store: ArtifactStore) -> None:
    write_jsonl(tmp_path / "chats.jsonl", [*CHATS, turns("Hi")])
    chat = ChatConfig(
        weights={},
        sets={"mine": str(tmp_path / "chats.jsonl")},
        on_broken_record="skip",
        held_out_frac=0.3,
    )
    (config,) = listed(chat, store).values()
    manifest = make(store, "mine", config)
    counts = manifest.counts
    assert counts["num_in"] == 61
    assert counts["no_assistant_turn"] == 1
    reasons = sum(num for name, num in counts.items() if not name.startswith("num_"))
    assert counts["num_in"] == counts["num_training"] + counts["num_held_out"] + reasons
    found = texts(store, manifest, "training.parquet") + texts(store, manifest, "held_out.parquet")
    assert sorted(found) == sorted(item[0]["content"] for item in CHATS)


def test_key_follows_content_and_split_and_not_the_place(
    tmp_path: Path, store: ArtifactStore
) -> None:
    paths = [tmp_path / place / "chats.jsonl" for place in ("a", "b", "c")]
    for path, conversations in zip(paths, (CHATS, CHATS, CHATS[1:]), strict=True):
        path.parent.mkdir()
        write_jsonl(path, conversations)
    keys = [
        key("mine", listed(ChatConfig(sets={"mine": str(path)}, weights={}), store)["mine"])
        for path in paths
    ]
    assert keys[0] == keys[1] != keys[2]
    same = ChatConfig(sets={"mine": str(paths[0])}, weights={"mine": 2}, pretraining_frac=0.5)
    assert key("mine", listed(same, store)["mine"]) == keys[0]
    other = ChatConfig(sets={"mine": str(paths[0])}, weights={}, held_out_frac=0.5)
    assert key("mine", listed(other, store)["mine"]) != keys[0]


def test_demo_set_is_generated(store: ArtifactStore) -> None:
    chat = ChatConfig(kind="demo", demo_conversations=30, max_held_out=7)
    (config,) = listed(chat, store).values()
    manifest = make(store, "demo", config)
    assert manifest.counts["num_training"] == 30
    assert manifest.counts["num_held_out"] == 7
    assert key("demo", config) != key("demo", listed(chat, store, seed=2)["demo"])


def test_digest_of_what_measures_is_that_of_its_conversations_not_of_their_tokens(
    tmp_path: Path, store: ArtifactStore
) -> None:
    digests = []
    for tokens, conversations in (("a", CHATS), ("b", CHATS), ("a", CHATS[:-30])):
        path = write_jsonl(tmp_path / "chats.jsonl", conversations)
        chat = ChatConfig(sets={"mine": str(path)}, weights={}, held_out_frac=0.5)
        chats = make(store, "mine", listed(chat, store)["mine"])
        shards = make_artifact(
            store,
            WriteChatShardsOutputs,
            "validation",
            config={"tokens": tokens},
            inputs={"chats": (chats.artifact,)},
        )
        digests.append(chat_validation_digest(shards, store))
    assert digests[0] == digests[1] != digests[2]


def test_validation_digest_tells_what_outgrew_the_context(
    tmp_path: Path, store: ArtifactStore
) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", CHATS)
    config = listed(ChatConfig(sets={"mine": str(path)}, weights={}, held_out_frac=0.5), store)[
        "mine"
    ]
    chats = make(store, "mine", config)

    def digest(context_tokens: int, **lost: int) -> str:
        shards = make_artifact(
            store,
            WriteChatShardsOutputs,
            "validation",
            config={"context_tokens": context_tokens, **lost},
            counts=filled(WriteChatShardsCounts, **lost),
            facts=RecordShardsFacts(context_tokens=context_tokens),
            inputs={"chats": (chats.artifact,)},
        )
        return chat_validation_digest(shards, store)

    whole = digest(512, too_long=0, num_cut=0)
    assert whole == digest(1024, too_long=0, num_cut=0)
    cut = digest(512, too_long=1, num_cut=2)
    others = [(256, 1, 2), (512, 2, 2), (512, 1, 3)]
    found = [digest(context, too_long=lost, num_cut=cut) for context, lost, cut in others]
    assert len({whole, cut, *found}) == 5


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    root = tmp_path / "repository"
    (root / "data").mkdir(parents=True)
    write_parquet(root / "data/train-0.parquet", CHATS[:30])
    write_parquet(root / "data/train-1.parquet", CHATS[30:])
    write_parquet(root / "data/test-0.parquet", CHATS)
    with (
        hub_environment(monkeypatch),
        HubServer(root, repo="owner/chats", revision=REVISION) as server,
    ):
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def hub_chat(revision: str) -> ChatConfig:
    return ChatConfig(**sets_of(revision), weights={})


def sets_of(revision: str) -> dict[str, dict[str, str]]:
    return {"sets": {"chats": f"hub:owner/chats@{revision}:data/train-*.parquet"}}


def test_hub_set_of_a_branch_is_pinned_to_its_commit(hub: HubServer, store: ArtifactStore) -> None:
    config = listed(hub_chat("main"), store)["chats"]
    assert isinstance(config.origin, ListedSet)
    assert config.origin.source.revision == REVISION
    assert config.semantic() == listed(hub_chat(REVISION), store)["chats"].semantic()
    manifest = make(store, "chats", config)
    assert manifest.counts["num_in"] == len(CHATS)
    assert {file.path for file in manifest.files} == {
        "training.parquet", "held_out.parquet", "rejected.parquet",
    }  # fmt: skip
    table = pq.read_table(store.path(manifest.artifact) / "training.parquet")
    assert set(table["file"].to_pylist()) == {"data/train-0.parquet", "data/train-1.parquet"}
    assert json.loads(manifest.model_dump_json())["derivation"]["config"]["repo"] == "owner/chats"


def test_run_keeps_the_commit_it_began_with_when_the_branch_moves(
    hub: HubServer, store: ArtifactStore, tmp_path: Path
) -> None:
    chat = {"kind": "sets", **sets_of("main")}
    config = merged_config("demo", {"chat": chat}, kind=ChatModelConfig)
    walked: list[str] = []

    def dag(_: Pipeline, run: ResolvedRun[ChatModelConfig]) -> None:
        hub.move_branch("f" * 40, tmp_path / "moved")
        walked.append(run.config.chat.sets["chats"])

    began = resolve_config(config, store=store).config
    plan_of(dag, began, store)
    assert [began.chat.sets["chats"]] == walked == [hub_chat(REVISION).sets["chats"]]
    with pytest.raises(LLMError):  # at the new commit there is no file
        listed(config.chat, store)


def test_pretraining_that_makes_no_chat_model_asks_no_hub(store: ArtifactStore) -> None:
    config = merged_config("sample", {}, kind=PretrainConfig)
    assert resolve_config(config, store=store).config.chat == config.chat
    pairs = merged_config("demo", {"preference": {"kind": "sets"}}, kind=ChatModelConfig)
    assert resolve_config(pairs, store=store).config.preference.sets == pairs.preference.sets


def test_hub_set_goes_on_after_an_outage_with_what_is_missing(
    hub: HubServer, store: ArtifactStore
) -> None:
    config = listed(hub_chat(REVISION), store)["chats"]
    hub.faults["data/train-1.parquet"] = ["truncate", *[503] * MAX_ATTEMPTS]
    with pytest.raises(TransientDownloadError):
        make(store, "chats", config)
    assert make(store, "chats", config).counts["num_in"] == len(CHATS)
    for name in ("data/train-0.parquet", "data/train-1.parquet"):
        assert hub.bytes_sent[name] == (hub.root / name).stat().st_size


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        (
            "hub:owner/chats:data/*.parquet",
            ConfigError,
            r"(?s)incomplete.*commit or branch.*chat\.sets.*what to do: name the commit or branch",
        ),
        ("no/such/file.jsonl", SourceError, r"(?s)chat set mine.*chat\.sets\.mine"),
    ],
)
def test_address_that_leads_nowhere_is_named(
    store: ArtifactStore, address: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        listed(ChatConfig(sets={"mine": address}, weights={}), store)
