"""Learning-rate schedule (warmup, stable, linear decay) as a share of the peak rate.

Pure functions of a training's config. Called by the trainer, by the extension of a finished
training, and by the plan of a run.
"""

from __future__ import annotations

import bisect

from model.config.train import TrainConfig

ENDLESS_STEPS = 10**15


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the peak learning rate at an optimizer step, counted from zero.

    Linear warmup that reaches the peak at step ``warmup_steps - 1``, flat, then linear decay over
    the last ``decay_frac`` of the horizon, which would reach the final rate one step after the
    last. Where warmup and decay overlap, the lower rate wins. No step has rate zero.

    Raises:
        ConfigError: the horizon in steps, or the warmup, is unset.
    """
    num_steps, warmup_steps = config.required("steps"), config.required("warmup_steps")
    warmup = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    decay_steps = config.decay_frac * num_steps
    left = max(0, num_steps - step)
    progress = 1.0 if left >= decay_steps else left / decay_steps
    final = config.final_learning_rate_frac
    return min(warmup, final + (1.0 - final) * progress)


def flat_steps(train: TrainConfig) -> int:
    """Return the number of steps before decay: their rates do not depend on the horizon.

    Example:
        1000 steps with ``decay_frac=0.65``: step 350 is the last at full rate, so 351.
    """
    endless = train.model_copy(update={"steps": ENDLESS_STEPS})
    return bisect.bisect_left(
        range(train.required("steps")),
        True,
        key=lambda step: learning_rate_factor(step, train) != learning_rate_factor(step, endless),
    )
