"""Configuration of chat fine-tuning: conversations, preferences and their trainings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from model.config.train import DirectPreference, TrainConfig
from model.config.trained_model import TalkConfig
from model.core.config import Config
from model.core.errors import ConfigError, unknown_key
from tasks.config.run import RegistryConfig

SET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


class ChatConfig(Config):
    """Conversations that a chat model learns from, and those it is measured on."""

    kind: Literal["sets", "demo"] = Field(
        default="sets",
        description="sets: those of chat.sets; demo: generated conversations; setting chat.sets "
        "alone chooses sets",
    )
    sets: dict[str, str] = Field(
        default={
            "smol-smoltalk": "hub:HuggingFaceTB/smol-smoltalk@main:data/train-*.parquet",
            "everyday": "hub:HuggingFaceTB/everyday-conversations-llama3.1-2k@main:"
            "data/train_sft-*.parquet",
        },
        description="name of a set -> its parquet or jsonl file of messages, or a folder or glob "
        "of them; hub:owner/name@revision:glob for parquet files on the hub, whose revision is a "
        "commit, or a branch that is looked up",
    )
    weights: dict[str, float] = Field(
        default={"everyday": 3.0},
        description="name of a set -> how often an epoch reads it; once unless named. Small models "
        "want the short ones more often",
    )
    demo_conversations: int = Field(
        default=8_000, gt=0, description="demo: conversations for training"
    )
    held_out_frac: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="share of each set that is held out of training and only measures; "
        "conversations that open with the same words are on one side, whatever their set. demo: a "
        "set of its own",
    )
    max_held_out: int = Field(
        default=1_000,
        gt=0,
        description="of each set, at most so many measure; more that are held out are left out",
    )
    on_broken_record: Literal["fail", "skip"] = Field(
        default="fail",
        description="a record that is no conversation (no role, an empty turn, turns that do not "
        "alternate, no answer) fails, or is counted by reason",
    )
    pretraining_frac: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of training rows that are pretraining text of the base model, so that "
        "it forgets less",
    )
    prompts: tuple[str, ...] = Field(
        default=(
            "Hello! Who are you?",
            "What is the capital of France?",
            "Why is the sky blue?",
            "Write two sentences about a dog that lives near the sea.",
            "How can I sleep better?",
        ),
        description="messages that the model answers at each validation and at the end",
    )

    @model_validator(mode="after")
    def _sets_are_named_and_weighted(self) -> Self:
        if self.kind == "sets":
            _check_sets("chat", self.sets, self.weights)
        return self


class FinetuneConfig(Config):
    """How a base model becomes a chat model."""

    base: str = Field(
        default="",
        description="model to start from: empty = the base model of these settings; or "
        "train_model/<name>-<key> in the store; or models:/<name>@<alias> of the registry",
    )
    rate_scale: float = Field(
        default=0.8,  # nanochat's chat_sft
        gt=0,
        description="learning rates that are unset, as a share of those of pretraining",
    )
    train: TrainConfig = Field(
        default=TrainConfig(epochs=2, decay_frac=0.5, loss_on="mask"),
        description="the training, as in the group train",
    )
    registry: RegistryConfig = Field(
        default=RegistryConfig(name="llm-chat"),
        description="how the chat model is filed, as in the group registry",
    )
    talk: TalkConfig = Field(
        default=TalkConfig(), description="a conversation that is had with the finished model"
    )


class PreferenceConfig(Config):
    """Pairs of answers, and how a chat model learns which of two is better."""

    method: Literal["none", "dpo"] = Field(
        default="none",
        description="dpo: a training on pairs follows chat fine-tuning, and its model is the one "
        "that is scored, exported and filed (arXiv 2305.18290)",
    )
    kind: Literal["sets", "demo"] = Field(
        default="sets",
        description="sets: those of preference.sets; demo: generated pairs; setting "
        "preference.sets alone chooses sets",
    )
    sets: dict[str, str] = Field(
        default={
            "ultrafeedback": "hub:HuggingFaceH4/ultrafeedback_binarized@main:"
            "data/train_prefs-*.parquet"
        },
        description="name of a set -> its parquet or jsonl file of chosen and rejected answers, or "
        "a folder or glob of them, or a place on the hub, as in chat.sets",
    )
    weights: dict[str, float] = Field(
        default={}, description="name of a set -> how often an epoch reads it; once unless named"
    )
    demo_pairs: int = Field(default=2_000, gt=0, description="demo: pairs for training")
    held_out_frac: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="share of each set that is held out of training and only measures; pairs that "
        "open with the same words are on one side, whatever their set. demo: a set of its own",
    )
    max_held_out: int = Field(
        default=500,
        gt=0,
        description="of each set, at most so many measure; more that are held out are left out",
    )
    on_broken_record: Literal["fail", "skip"] = Field(
        default="fail",
        description="a record that is no pair (an answer missing, two prompts, equal answers, or "
        "what breaks a conversation) fails, or is counted by reason",
    )
    dpo: DirectPreference = Field(default=DirectPreference(), description="the objective of dpo")
    train: TrainConfig = Field(
        default=TrainConfig(
            epochs=2,  # SmolLM2's small models, and so the rate
            optimizer="adamw",
            learning_rate=1e-6,
            batch_tokens_per_step=2**18,  # 128 pairs of 1,024 tokens, as Zephyr's
            warmup_steps=50,
            decay_frac=0.9,
            loss_on="mask",
        ),
        description="the training, as in the group train; rates a thousandth of fine-tuning's: an "
        "answer need not be learned, only preferred",
    )

    @model_validator(mode="after")
    def _sets_are_named_and_weighted(self) -> Self:
        if self.kind == "sets":
            _check_sets("preference", self.sets, self.weights)
        return self

    @model_validator(mode="after")
    def _has_no_budget_of_minutes(self) -> Self:
        if self.method == "dpo" and self.train.budget_minutes:
            raise ConfigError(
                "preference tuning has no budget of minutes",
                expected="preference.train.epochs, steps or tokens",
                found=f"preference.train.budget_minutes={self.train.budget_minutes:g}",
                where="preference.train.budget_minutes",
                fix="set another horizon: the speed that a budget is made of is measured without "
                "the reference model of DPO",
            )
        return self


def _check_sets(group: str, sets: Mapping[str, str], weights: Mapping[str, float]) -> None:
    unusable = [name for name in sets if not re.fullmatch(SET_NAME, name)]
    if unusable:
        raise ConfigError(
            f"the name of a {group} set cannot be that of a directory",
            expected="letters, digits, '.', '_' and '-'",
            found=unusable[0],
            where=f"{group}.sets",
            fix="give the set another name",
        )
    if not sets:
        raise ConfigError(
            f"there are no {group} sets",
            expected="at least one name with the address of its files",
            found="none",
            where=f"{group}.sets",
            fix=f'set {group}.sets={{"<name>": "<file, folder or glob>"}}',
        )
    unknown = sorted(weights.keys() - sets.keys())
    if unknown:
        raise unknown_key(f"{group}.weights.{unknown[0]}", [f"{group}.weights.{s}" for s in sets])
    if any(weight <= 0 for weight in weights.values()):
        raise ConfigError(
            f"a {group} set cannot be read less than never",
            expected=f"weights above 0; leave a set out of {group}.sets to do without it",
            found=weights,
            where=f"{group}.weights",
            fix="name how often an epoch reads the set",
        )


class RecordShardLayout(Config):
    """Which side of the sets becomes shards, and how they are cut; from other groups of settings.

    Args:
        context_tokens: a row has one token more.
        shard_tokens: tokens per shard, about: a conversation is never cut.
        seed: for the header.
    """

    split: Literal["training", "validation"]
    context_tokens: int
    shard_tokens: int
    seed: int

    @property
    def row_tokens(self) -> int:
        """Tokens of a row."""
        return self.context_tokens + 1
