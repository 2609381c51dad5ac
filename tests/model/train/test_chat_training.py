"""Training on conversations: loss mask, validation and sample texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.config.network import ModelConfig
from model.config.runs import TrainRun
from model.config.train import MixturePart
from model.config.trained_model import ScoreConfig
from model.core.errors import ConfigError
from model.data.shards import ShardSet
from model.eval.__main__ import score
from model.inference.generate import prompt_ids
from model.network.weights import load_model, save_model
from model.runtime.distributed import DistributedContext, StopRequest
from model.text.chat_template import Message
from model.text.conversation import conversation_ids
from model.text.tokenizer import IM_END, Tokenizer
from model.train.events import read_events
from model.train.loader import BatchReader
from model.train.setup import build_model, build_reader
from model.train.trainer import Trainer
from tasks.config.chat import RecordShardLayout
from tasks.corpus.chat_data.conversations import CONVERSATION_SCHEMA
from tasks.tokens.record_shards import RecordTable
from tasks.tokens.sft import write_sft_shards
from tests.support.small_tokenizer import train_small_tokenizer
from tests.support.small_training import small_run

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ModelConfig(size="1m", context_tokens=64)
CHAT, TEXT = MixturePart(shards="chat"), MixturePart(shards="text", loss_on="all")


def write_chats(directory: Path, tokenizer: Path, *, num: int, answer: str) -> None:
    turns = [
        [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": f"{answer} {n}"}]
        for n in range(num)
    ]
    rows = [{"file": "f", "row": n, "messages": item} for n, item in enumerate(turns)]
    directory.mkdir(parents=True)
    table = directory / "chats.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=CONVERSATION_SCHEMA), table)
    write_sft_shards(
        [RecordTable(directory.name, table)],
        layout=RecordShardLayout(
            split="training", context_tokens=MODEL.context_tokens, shard_tokens=10**6, seed=1
        ),
        tokenizer_directory=tokenizer,
        destination=directory,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    tokenizer = train_small_tokenizer(root / "tokenizer")
    write_chats(root / "chat", tokenizer, num=90, answer="the cat sat")
    write_chats(root / "text", tokenizer, num=30, answer="the dog")
    write_chats(root / "validation", tokenizer, num=9, answer="the mat")
    return root


def chat_run(root: Path, *, steps: int = 4, **fields: Any) -> TrainRun:
    train = {"steps": steps, "batch_tokens_per_step": 256, "loss_on": "mask"}
    chosen = {"model": MODEL, "mixture": (CHAT,), "style": "chat"} | fields
    return small_run(root, train=train, **chosen)


def reader_of(run: TrainRun) -> tuple[BatchReader, Tokenizer]:
    tokenizer = Tokenizer.load(run.path("tokenizer"))
    return build_reader(run, tokenizer, DistributedContext()), tokenizer


def trained(run: TrainRun, directory: Path) -> Trainer:
    with StopRequest() as stop:
        trainer = Trainer(run, directory=directory, distributed=DistributedContext(), stop=stop)
        trainer.fit()
    return trainer


def test_mixture_counts_answers_of_chats_and_all_of_text(root: Path) -> None:
    reader, tokenizer = reader_of(chat_run(root, mixture=(CHAT, TEXT)))
    batch = reader.read(reader.start())
    parts = batch.rows[:, 0]
    assert sorted(parts.tolist()) == [0, 0, 1, 1]
    end = tokenizer.special_id(IM_END)
    for part, ids, mask in zip(parts, batch.ids.numpy(), batch.mask.numpy(), strict=True):
        learned = ids[mask].tolist()
        is_text = part == 1
        assert (tokenizer.end_of_text_id in learned) == is_text
        if not is_text:
            said = tokenizer.decode(learned).split(IM_END)
            assert all(piece.startswith("the cat sat ") for piece in said[:-1])
            assert learned.count(end) == len(said) - 1
    assert batch.num_targets == int(batch.mask.sum())


def test_text_without_a_loss_mask_in_a_chat_training_needs_its_own_rule(root: Path) -> None:
    directory = root / "plain"
    if not directory.exists():
        write_plain(directory, root / "text")
    plain = MixturePart(shards="plain")
    reader, _ = reader_of(
        chat_run(root, mixture=(CHAT, plain.model_copy(update={"loss_on": "all"})))
    )
    reader.read(reader.start())
    reader, _ = reader_of(chat_run(root, mixture=(CHAT, plain)))
    with pytest.raises(ConfigError, match=r"(?s)no loss mask.*train\.loss_on=all"):
        reader.read(reader.start())


def write_plain(directory: Path, chats: Path) -> None:
    """Copy shards without their loss mask."""
    directory.mkdir()
    source = chats / "shard-00000.arrow"
    with pa.ipc.open_stream(source) as reader:
        table = reader.read_all().drop_columns(["loss_mask"])
        with pa.ipc.new_stream(directory / source.name, table.schema) as writer:
            writer.write_batch(table.combine_chunks().to_batches()[0])
    (directory / "rows.arrow").write_bytes((chats / "rows.arrow").read_bytes())


def test_training_starts_from_the_base_and_learns_to_answer(root: Path, tmp_path: Path) -> None:
    base = chat_run(root, steps=1)
    tokenizer = Tokenizer.load(root / "tokenizer")
    save_model(build_model(base, tokenizer), root / "base" / "model")
    run = chat_run(root, steps=12, init_from="base/model", sample_prompts=("Hi 3", "Hi 4"))
    start = build_model(run, tokenizer).state_dict()
    for name, tensor in load_model(root / "base" / "model").state_dict().items():
        assert torch.equal(start[name], tensor)
    trained(run, tmp_path)
    events = read_events(tmp_path / "events.jsonl")
    losses = [event["train/loss"] for event in events if event["kind"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    samples = [event["samples"] for event in events if event["kind"] == "sample"]
    assert len(samples) == 3  # at steps 5, 10 and 12
    assert [item["prompt"] for item in samples[-1]] == ["Hi 3", "Hi 4"]
    assert all(IM_END not in item["text"] for item in samples[-1])


def test_validation_measures_what_the_assistant_says_alone(root: Path, tmp_path: Path) -> None:
    run = chat_run(root)
    trainer = trained(run, tmp_path)
    tokenizer = trainer.tokenizer
    shards = ShardSet(root / "validation", context_tokens=MODEL.context_tokens, loss_on="mask")
    scores = score(
        trainer.model, tokenizer, shards, config=ScoreConfig(prompts=("Hi 1",)), style="chat"
    )
    block = shards.rows(range(shards.num_rows))
    counted = block.mask & (tokenizer.bytes_per_token[block.ids] > 0)
    assert scores.num_tokens == int(counted.sum())
    assert scores.num_bytes == sum(len(f"the mat {n}") for n in range(9))
    with torch.inference_mode():
        ids = torch.from_numpy(block.ids.astype(np.int64))
        logits = trainer.model(ids[:, :-1]).log_softmax(-1)
    picked = logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
    expected = -picked[torch.from_numpy(counted[:, 1:])].mean().item()
    assert scores.validation_loss == pytest.approx(expected, rel=1e-4)
    events = read_events(tmp_path / "events.jsonl")
    last = [event["validation/loss"] for event in events if event["kind"] == "validation"][-1]
    assert last == pytest.approx(expected, rel=1e-4)


def test_prompt_of_a_chat_is_a_users_message(root: Path) -> None:
    tokenizer = Tokenizer.load(root / "tokenizer")
    message = Message(role="user", content="Hi")
    assert prompt_ids("Hi", tokenizer, style="chat") == conversation_ids([message], tokenizer)
    assert prompt_ids("Hi", tokenizer, style="text")[1:] == tokenizer.encode("Hi")
