"""Spike guard: skip steps whose loss or gradient norm is not finite or is a spike.

A skipped step leaves parameters and optimizer bit for bit unchanged. The verdict is a number on the
device, computed and used without synchronising; the numbers are read where the loop synchronises
anyway, and there a non-finite step, or too many spikes, end the training. Losses and gradient norms
are sums over all processes, so every process reaches the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from model.core.config import Config
from model.core.errors import TrainingError

WINDOW_STEPS = 128  # and six sigmas by default: OLMo-core's SkipStepOptimizer
MIN_WINDOW_STEPS = 64  # fewer are too few to estimate the spread
MAX_NAMED_ROWS = 8


@dataclass(frozen=True)
class StepOutcome:
    """Results of one step, on the device; reading them synchronises."""

    step: int
    rows: npt.NDArray[np.int64]
    learning_rate: float
    loss: Float[Tensor, ""]
    gradient_norm: Float[Tensor, ""]
    factor: Float[Tensor, ""]  # 1 where the update was applied, else 0
    measures: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)  # beside the loss


@dataclass(frozen=True)
class StepNumbers:
    """Results of one step as numbers."""

    step: int
    rows: npt.NDArray[np.int64]
    loss: float
    gradient_norm: float
    is_applied: bool


class SpikeGuardState(Config):
    """State of the guard; saved with every checkpoint."""

    # Loss and gradient norm by step modulo the length; None where skipped or not taken yet.
    window: tuple[tuple[float, float] | None, ...] = (None,) * WINDOW_STEPS
    num_skipped: int = 0  # since training began
    skipped_steps: tuple[int, ...] = ()  # those within one window of the last step read


@dataclass
class SpikeGuard:
    """Decides whether each step is applied, and holds the results that are not read yet."""

    spike_sigmas: float  # a loss or gradient norm this far above the window's mean is a spike
    max_skipped_steps: int  # of a window; one more ends the training
    device: torch.device  # where losses are
    unread: list[StepOutcome] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.restore(SpikeGuardState())

    def update_factor(
        self, step: int, *, loss: Float[Tensor, ""], gradient_norm: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """Return 1 if a step's update is to be applied, else 0, without synchronising.

        A skipped step is left out of the window, so that one spike does not hide the next.
        """
        pair = torch.stack((loss, gradient_norm)).double()
        is_known = self._window.isfinite()
        count = is_known.sum(0).clamp(min=1)
        mean = torch.where(is_known, self._window, 0.0).sum(0) / count
        squares = torch.where(is_known, self._window - mean, 0.0).square().sum(0) / count
        is_high = pair > mean + self.spike_sigmas * squares.sqrt()
        is_spike = is_high.any() & (count[0] >= MIN_WINDOW_STEPS)
        is_applied = pair.isfinite().all() & ~is_spike
        self._window[(step - 1) % WINDOW_STEPS] = torch.where(is_applied, pair, math.nan)
        return is_applied.float()

    def note(self, outcome: StepOutcome) -> None:
        """Take the outcome of a step without reading it."""
        self.unread.append(outcome)

    def read(self) -> list[StepNumbers]:
        """Synchronise, and return the numbers of every step not read before.

        Raises:
            TrainingError: a loss or a gradient is not finite, or too many steps were skipped.
        """
        if not self.unread:
            return []
        outcomes, self.unread = self.unread, []
        table = torch.stack(
            [torch.stack((item.loss, item.gradient_norm, item.factor)) for item in outcomes]
        )
        found = [
            StepNumbers(item.step, item.rows, loss, norm, is_applied=factor > 0)
            for item, (loss, norm, factor) in zip(outcomes, table.tolist(), strict=True)
        ]
        for numbers in found:
            if not (math.isfinite(numbers.loss) and math.isfinite(numbers.gradient_norm)):
                raise TrainingError(
                    "the loss or its gradient is not finite",
                    expected="finite numbers",
                    found=f"loss {numbers.loss}, gradient norm {numbers.gradient_norm}",
                    where=f"step {numbers.step}, {name_rows(numbers.rows)}",
                    fix="lower train.learning_rate, raise train.warmup_steps, or set "
                    "train.precision=float32; earlier checkpoints are good",
                )
            if not numbers.is_applied:
                self._count_skipped(numbers)
        return found

    def _count_skipped(self, numbers: StepNumbers) -> None:
        self.num_skipped += 1
        first = numbers.step - WINDOW_STEPS
        steps = [*(step for step in self._skipped_steps if step > first), numbers.step]
        self._skipped_steps = steps
        if len(steps) > self.max_skipped_steps:
            raise TrainingError(
                "too many updates were skipped for a spike of loss or gradient",
                expected=f"at most {self.max_skipped_steps} of {WINDOW_STEPS} steps "
                "(train.max_skipped_steps)",
                found=f"{len(steps)}: steps {', '.join(map(str, steps))}; the last one had loss "
                f"{numbers.loss:.5g} and gradient norm {numbers.gradient_norm:.5g}",
                where=f"step {numbers.step}, {name_rows(numbers.rows)}",
                fix="inspect the rows; lower train.learning_rate, or raise train.spike_sigmas or "
                "train.max_skipped_steps; earlier checkpoints are good",
            )

    def state(self) -> SpikeGuardState:
        """Return the state to save; every step must have been read."""
        assert not self.unread, "read() first"
        window = tuple(
            None if math.isnan(loss) else (loss, norm) for loss, norm in self._window.tolist()
        )
        return SpikeGuardState(
            window=window, num_skipped=self.num_skipped, skipped_steps=tuple(self._skipped_steps)
        )

    def restore(self, state: SpikeGuardState) -> None:
        """Continue from a saved state."""
        rows = [(math.nan, math.nan) if pair is None else pair for pair in state.window]
        self._window = torch.tensor(rows, dtype=torch.float64, device=self.device)
        self.num_skipped = state.num_skipped
        self._skipped_steps = list(state.skipped_steps)


def require_targets(num_targets: int, *, step: int, rows: npt.NDArray[np.int64]) -> None:
    """Check that a batch has unmasked targets.

    Raises:
        TrainingError: every token of it is masked.
    """
    if num_targets == 0:
        raise TrainingError(
            "a batch has no unmasked target",
            expected="at least one target per batch",
            found="every token is masked",
            where=f"step {step}, {name_rows(rows)}",
            fix="set train.loss_on=all, or leave documents without targets out of the shards",
        )


def name_rows(rows: npt.NDArray[np.int64]) -> str:
    """Name the rows of a batch by mixture part, the first few of each."""
    names = []
    for part in np.unique(rows[:, 0]).tolist():
        own = rows[rows[:, 0] == part, 1].tolist()
        more = f" and {len(own) - MAX_NAMED_ROWS} more" if len(own) > MAX_NAMED_ROWS else ""
        first = ", ".join(map(str, own[:MAX_NAMED_ROWS]))
        names.append(f"rows {first}{more} of mixture part {part}")
    return "; ".join(names)
