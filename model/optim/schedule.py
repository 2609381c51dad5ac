"""The learning rate of each step as a share of its peak, and how long it knows no horizon.

Pure functions of a training's config. Called by the trainer, by what goes on from a finished
training, and by the plan of a run.
"""

from __future__ import annotations

import bisect

from model.config.train import TrainConfig
from model.core.errors import ConfigError

ENDLESS_STEPS = 10**15


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the peak learning rate at an optimizer step, counted from zero.

    Linear warmup that reaches the peak at step ``warmup_steps - 1``, flat, then linear decay over
    the last ``decay_frac`` of the horizon, aimed at the final rate one step after the last; where
    warmup and decay overlap, the lower rate wins. No step has rate zero.

    Raises:
        ConfigError: the horizon of ``config`` is not given in steps, or its warmup is not given.
    """
    if config.steps is None or config.warmup_steps is None:
        raise ConfigError(
            "the learning rate needs a horizon in steps and a warmup",
            expected="train.steps and train.warmup_steps",
            found=f"train.steps={config.steps}, train.warmup_steps={config.warmup_steps}, "
            f"train.tokens={config.tokens}",
            fix="resolve the config with model.config.defaults.resolve() first",
        )
    warmup = (step + 1) / config.warmup_steps if step < config.warmup_steps else 1.0
    decay_steps = config.decay_frac * config.steps
    left = max(0, config.steps - step)
    progress = 1.0 if left >= decay_steps else left / decay_steps
    final = config.final_learning_rate_frac
    return min(warmup, final + (1.0 - final) * progress)


def flat_steps(train: TrainConfig) -> int:
    """Return how many first steps have the learning rates of an endless training.

    Example:
        1000 steps with ``decay_frac=0.65``: step 350 is the last at full rate, so 351.
    """
    assert train.steps, "the horizon is in steps by now"
    endless = train.model_copy(update={"steps": ENDLESS_STEPS})
    return bisect.bisect_left(
        range(train.steps),
        True,
        key=lambda step: learning_rate_factor(step, train) != learning_rate_factor(step, endless),
    )
