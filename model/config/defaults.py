"""Hyperparameter defaults by model size, as pure functions of the architecture.

Batch, learning rates, weight decay, warmup and default horizon follow from the size, each unless it
is given. Rates follow the batch that is really used. None of them depends on the horizon, so that
the horizon of a finished training can be extended. ``flows.settings`` calls ``resolve`` once,
before any key is made.
"""

from __future__ import annotations

import dataclasses
import math

from model.config.network import Architecture, ModelConfig
from model.config.train import Hyperparameters, TrainConfig

TOKENS_PER_PARAM = 12  # of matrices and head; nanochat's default, optimum about 10.5
REFERENCE_PARAMS = 110_100_480  # matrices and head of the 135m size with 32,768 tokens
REFERENCE_WIDTH = 768  # of the same size: all rates below were found there
REFERENCE_BATCH_TOKENS = 2**19  # and at this batch: nanochat, modded-nanogpt track 3
TIED_RATE = 0.0016  # of a tied embedding: 0.004 at width 128, measured (decision 011)
BATCH_EXPONENT = 0.383  # nanochat base_train.py

RATES = tuple(
    field.name
    for field in dataclasses.fields(Hyperparameters)
    if field.name.endswith("learning_rate")
)


def with_defaults(
    train: TrainConfig, architecture: Architecture, *, rate_scale: float = 1.0
) -> TrainConfig:
    """Return the config with every unset hyperparameter filled.

    With AdamW, a given ``learning_rate`` is the default of the other rates. Given rates are not
    scaled.
    """
    batch = train.batch_tokens_per_step or batch_tokens(architecture)
    defaults_of = _adamw if train.optimizer == "adamw" else _muon
    values = dataclasses.asdict(defaults_of(architecture, batch))
    values |= {name: rate_scale * values[name] for name in RATES}
    if train.optimizer == "adamw" and train.learning_rate:
        values |= dict.fromkeys(RATES, train.learning_rate)
    unset = {name: value for name, value in values.items() if getattr(train, name) is None}
    return train.model_copy(update=unset)


def resolve(
    train: TrainConfig, model: ModelConfig, vocab_size: int, *, rate_scale: float = 1.0
) -> TrainConfig:
    """Return the config with every unset value filled and its horizon in steps.

    Args:
        rate_scale: factor of the default learning rates, below 1 for fine-tuning.

    Raises:
        ConfigError: more than one horizon is given.
    """
    architecture = model.architecture(vocab_size)
    filled = with_defaults(train, architecture, rate_scale=rate_scale)
    if not any(getattr(train, name) for name in TrainConfig.HORIZONS):
        filled = filled.model_copy(update={"tokens": default_tokens(architecture)})
    return filled.with_horizon_in_steps()


def default_tokens(architecture: Architecture) -> int:
    """Return the compute-optimal horizon in tokens."""
    return TOKENS_PER_PARAM * architecture.num_matmul_params()


def batch_tokens(architecture: Architecture) -> int:
    """Return the tokens of an optimizer step, a power of two.

    It grows with the default horizon to the power 0.383. Source: nanochat ``base_train.py``.

    Example:
        The 135m size with 32,768 tokens has 2^19.
    """
    growth = (architecture.num_matmul_params() / REFERENCE_PARAMS) ** BATCH_EXPONENT
    return max(architecture.context_tokens, 2 ** round(math.log2(REFERENCE_BATCH_TOKENS * growth)))


def _muon(architecture: Architecture, batch: int) -> Hyperparameters:
    """Return the reference's rates, scaled to this width and to a larger batch.

    The root law holds above the reference batch. It would shrink rates below it, and training on
    batches of 4,096 tokens needs them whole: docs/decisions/011-small-sizes-untied.md. Decay takes
    the same share of the weights over the default horizon at every size and batch.
    """
    batch_scale = max(1.0, (batch / REFERENCE_BATCH_TOKENS) ** 0.5)
    scale = batch_scale * (architecture.width / REFERENCE_WIDTH) ** -0.5  # nanochat
    params = architecture.num_matmul_params()
    reference_steps = REFERENCE_PARAMS / REFERENCE_BATCH_TOKENS
    step_share = reference_steps / (params / batch)  # of a step in the horizon, by the reference's
    return Hyperparameters(
        batch_tokens_per_step=batch,
        learning_rate=0.02 * batch_scale,  # nanochat
        embedding_learning_rate=(TIED_RATE if architecture.tied else 0.3) * scale,  # nanochat
        head_learning_rate=0.008 * scale,  # nanochat
        norm_learning_rate=0.015 * scale,  # nanochat
        weight_decay=0.05 / batch_scale * step_share,  # modded-nanogpt track 3
        embedding_weight_decay=0.001,  # nanochat
        head_weight_decay=0.01,  # nanochat
        warmup_steps=40,  # nanochat
        beta1=0.8,  # nanochat and modded-nanogpt track 3
        beta2=0.95,  # modded-nanogpt track 3
    )


def _adamw(architecture: Architecture, batch: int) -> Hyperparameters:
    """Return the rates of OLMo-core's model ladder, scaled to this batch."""
    size = architecture.num_matmul_params() / 108e6  # the ladder's reference
    ladder_batch = 2048 * 160 * size ** (2 / 3)  # OLMo-core's model ladder
    rate = 0.5 * 0.0047 * size ** (-1 / 3) * (batch / ladder_batch) ** 0.5  # same
    return Hyperparameters(
        batch_tokens_per_step=batch,
        learning_rate=rate,
        embedding_learning_rate=rate,
        head_learning_rate=rate,
        norm_learning_rate=rate,
        weight_decay=0.1,  # OLMo-core's model ladder: all but embeddings and norms
        embedding_weight_decay=0.0,
        head_weight_decay=0.1,
        warmup_steps=max(1, architecture.num_matmul_params() // batch),  # 1 token per parameter
        beta1=0.9,
        beta2=0.95,
    )
