"""Guards of a training: numbers that must not reach the weights.

``model.trainer`` notes the outcome of every step here and has the guard read them where it waits
for the device anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from model.errors import TrainingError

MAX_NAMED_ROWS = 8


@dataclass(frozen=True)
class StepOutcome:
    """What one step left on the device; reading it waits for the device."""

    step: int
    rows: npt.NDArray[np.int64]
    learning_rate: float
    loss: Float[Tensor, ""]
    gradient_norm: Float[Tensor, ""]


class Guard:
    """Remembers the outcomes whose numbers nobody has read yet."""

    def __init__(self) -> None:
        self.unread: list[StepOutcome] = []

    def note(self, outcome: StepOutcome) -> None:
        """Take the outcome of a step, without looking at it."""
        self.unread.append(outcome)

    def require_finite(self) -> None:
        """Check every step whose numbers were not read yet; on the CPU, that is before its update.

        On a GPU reading would wait for the device at every step, so it is done where numbers are
        needed anyway: before they are recorded, and before a checkpoint keeps what they spoilt.
        Losses and gradients are sums over all processes: each finds the same and all stop.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        if not self.unread:
            return
        numbers = torch.stack([torch.stack((i.loss, i.gradient_norm)) for i in self.unread])
        for outcome, pair in zip(self.unread, numbers.tolist(), strict=True):
            if not all(map(math.isfinite, pair)):
                raise _not_finite(outcome, loss=pair[0], gradient_norm=pair[1])
        self.unread.clear()


def require_targets(num_targets: int, *, step: int, rows: npt.NDArray[np.int64]) -> None:
    """Check that a batch teaches anything.

    Raises:
        TrainingError: every token of it is masked.
    """
    if num_targets == 0:
        raise TrainingError(
            "a batch has no token to learn from",
            expected="at least one target per batch",
            found="every token is masked",
            where=f"step {step}, {_name_rows(rows)}",
            fix="set train.loss_on=all, or leave documents without targets out of the shards",
        )


def _not_finite(outcome: StepOutcome, *, loss: float, gradient_norm: float) -> TrainingError:
    return TrainingError(
        "the loss or its gradient is not finite",
        expected="finite numbers",
        found=f"loss {loss}, gradient norm {gradient_norm}",
        where=f"step {outcome.step}, {_name_rows(outcome.rows)}",
        fix="lower train.learning_rate, raise train.warmup_steps, or set train.precision=float32; "
        "the checkpoints before are good",
    )


def _name_rows(rows: npt.NDArray[np.int64]) -> str:
    """Name the rows of a batch by mixture part, the first few of each."""
    names = []
    for part in np.unique(rows[:, 0]).tolist():
        own = rows[rows[:, 0] == part, 1].tolist()
        more = f" and {len(own) - MAX_NAMED_ROWS} more" if len(own) > MAX_NAMED_ROWS else ""
        first = ", ".join(map(str, own[:MAX_NAMED_ROWS]))
        names.append(f"rows {first}{more} of mixture part {part}")
    return "; ".join(names)
