"""Reader, model and objective of a training, from its ``TrainRun``.

Checks that tokenizer, shards and model match. Called by ``model.train.trainer``.
"""

from __future__ import annotations

from model.config.network import LossOn
from model.config.runs import TrainRun
from model.config.train import rows_per_step
from model.core.errors import ConfigError
from model.data.shards import ShardSet
from model.network.gpt import GPT
from model.network.weights import load_model
from model.runtime.distributed import DistributedContext
from model.text.tokenizer import Tokenizer
from model.train.loader import BatchReader, Part, require_whole_groups
from model.train.objectives import NextToken, Objective, Preferences


def open_shards(
    run: TrainRun, relative: str, tokenizer: Tokenizer, *, loss_on: LossOn | None = None
) -> ShardSet:
    """Return the shard set of a directory of the run.

    Args:
        loss_on: targets of the loss; ``None`` = those of the run.

    Raises:
        ConfigError: it was made with another tokenizer.
    """
    shards = ShardSet(
        run.path(relative),
        context_tokens=run.model.context_tokens,
        loss_on="mask" if run.dpo else loss_on or run.train.loss_on,
    )
    if shards.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "the shards were made with another tokenizer",
            expected=f"tokenizer {tokenizer.fingerprint} of {run.tokenizer}",
            found=f"tokenizer {shards.tokenizer_fingerprint}",
            where=shards.directory,
            fix="tokenise the text with this tokenizer, or give the one the shards were made with",
        )
    return shards


def build_reader(
    run: TrainRun, tokenizer: Tokenizer, distributed: DistributedContext
) -> BatchReader:
    """Return the reader of a run's training rows.

    Raises:
        ConfigError: the batch does not divide into rows for every process.
        TrainingError: there are fewer tokens than one batch.
    """
    # train.processes may be 0 for one per GPU; here the number is known.
    spread = run.train.model_copy(update={"processes": distributed.size, "nodes": 1})
    parts = [
        Part(open_shards(run, part.shards, tokenizer, loss_on=part.loss_on), part.weight)
        for part in run.mixture
    ]
    return BatchReader(
        parts,
        seed=run.train.seed,
        rows_per_step=rows_per_step(spread, run.model, rows_per_group=run.rows_per_group),
        distributed=distributed,
        attention=run.train.attention,
        rows_per_group=run.rows_per_group,
    )


def build_model(run: TrainRun, tokenizer: Tokenizer) -> GPT:
    """Return the initial model: seeded, or with the weights of ``init_from``.

    Raises:
        ConfigError: the weights given belong to another architecture.
    """
    model = GPT(run.model.architecture(tokenizer.vocab_size))
    if run.init_from is None:
        model.init_weights(run.train.seed)
        return model
    directory = run.path(run.init_from)
    given = load_model(directory)
    shapes = [item.architecture.model_dump(exclude={"context_tokens"}) for item in (model, given)]
    if shapes[0] != shapes[1]:
        wrong = [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]
        raise ConfigError(
            "the model to start from has another architecture",
            expected=", ".join(f"{name}={shapes[0][name]}" for name in wrong),
            found=", ".join(f"{name}={shapes[1][name]}" for name in wrong),
            where=directory,
            fix="set model.* and the tokenizer to those it was trained with",
        )
    model.load_state_dict(given.state_dict())
    return model


def build_objective(
    run: TrainRun, model: GPT, *, validation: ShardSet, tokenizer: Tokenizer
) -> Objective:
    """Return the objective of a run.

    Raises:
        ConfigError: preference training without ``init_from``.
        ArtifactError: the held-out rows are not whole pairs.
    """
    if run.dpo is None:
        return NextToken(
            model,
            validation=validation,
            bytes_per_token=tokenizer.bytes_per_token,
            attention=run.train.attention,
        )
    if run.init_from is None:
        raise ConfigError(
            "preference training needs a model to start from",
            expected="init_from, a directory with model.safetensors",
            found="none: training from scratch",
            fix="fine-tune a model on chats first, and start from that",
        )
    require_whole_groups(validation, rows_per_group=run.rows_per_group)
    reference = build_model(run, tokenizer).to(model.head_weight.device)
    return Preferences(model, reference=reference, beta=run.dpo.beta, validation=validation)
