"""Spike guard: which steps are skipped, and the errors that end a training."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from model.core.errors import TrainingError
from model.train.spike_guard import SpikeGuard, SpikeGuardState, StepNumbers, StepOutcome

ROWS = np.array([[0, 7], [0, 3], [1, 5]])


def guard_of(*, sigmas: float = 6.0, max_skipped: int = 10) -> SpikeGuard:
    return SpikeGuard(
        spike_sigmas=sigmas, max_skipped_steps=max_skipped, device=torch.device("cpu")
    )


def take(guard: SpikeGuard, step: int, loss: float, norm: float = 1.0) -> StepNumbers:
    tensors = torch.tensor(loss), torch.tensor(norm)
    factor = guard.update_factor(step, loss=tensors[0], gradient_norm=tensors[1])
    guard.note(StepOutcome(step, ROWS, 1e-3, *tensors, factor))
    (numbers,) = guard.read()
    return numbers


def noise(num_steps: int, *, seed: int = 1) -> list[tuple[float, float]]:
    """Return losses and norms with a spike now and then, as fp32 numbers."""
    rng = np.random.default_rng(seed)
    pairs = rng.normal([3.0, 1.0], [0.1, 0.2], size=(num_steps, 2)).astype(np.float32)
    pairs[rng.random(num_steps) < 0.03, 0] += 2.0
    pairs[rng.random(num_steps) < 0.03, 1] += 5.0
    return [(float(loss), float(norm)) for loss, norm in pairs]


def applied_by_hand(pairs: list[tuple[float, float]], *, sigmas: float) -> list[bool]:
    applied: list[bool] = []
    for step, pair in enumerate(pairs):
        window = [pairs[i] for i in range(max(0, step - 128), step) if applied[i]]
        limits = [
            statistics.fmean(numbers) + sigmas * statistics.pstdev(numbers)
            for numbers in zip(*window, strict=True)
        ]
        applied.append(len(window) < 64 or all(map(float.__le__, pair, limits)))
    return applied


def test_judge_skips_what_the_plain_formula_skips():
    pairs = noise(400)
    guard = guard_of(max_skipped=400)
    found = [take(guard, step, *pair).is_applied for step, pair in enumerate(pairs, start=1)]
    assert found == applied_by_hand(pairs, sigmas=6.0)
    assert 5 < found.count(False) < 40
    assert guard.num_skipped == found.count(False)


def test_judge_after_restore_continues_with_the_same_verdicts():
    pairs = noise(300, seed=2)
    whole, first, second = guard_of(max_skipped=300), guard_of(max_skipped=300), guard_of()
    expected = [take(whole, step, *pair).is_applied for step, pair in enumerate(pairs, start=1)]
    found = [take(first, step, *pair).is_applied for step, pair in enumerate(pairs[:170], start=1)]
    saved = first.state().model_dump_json()
    second = guard_of(max_skipped=300)
    second.restore(SpikeGuardState.model_validate_json(saved))
    found += [
        take(second, step, *pair).is_applied for step, pair in enumerate(pairs[170:], start=171)
    ]
    assert found == expected
    assert second.state() == whole.state()


def test_judge_before_half_a_window_takes_everything_finite():
    guard = guard_of()
    assert all(take(guard, step, 3.0).is_applied for step in range(1, 64))
    assert take(guard, 64, 1000.0).is_applied
    assert not take(guard, 65, 10_000.0).is_applied  # 64 numbers are known by now


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (2.0, math.inf), (-math.inf, 1.0)])
def test_read_of_a_non_finite_step_names_step_and_rows(loss: float, norm: float):
    guard = guard_of()
    tensors = torch.tensor(loss), torch.tensor(norm)
    factor = guard.update_factor(1, loss=tensors[0], gradient_norm=tensors[1])
    assert factor.item() == 0.0
    guard.note(StepOutcome(1, ROWS, 1e-3, *tensors, factor))
    with pytest.raises(TrainingError, match="not finite") as error:
        guard.read()
    assert error.value.where == "step 1, rows 7, 3 of mixture part 0; rows 5 of mixture part 1"


def test_read_counts_skipped_steps_within_one_window_only():
    guard = guard_of(max_skipped=2)
    skipped = (100, 150, 229)  # the third is more than a window after the first
    for step in range(1, 240):
        numbers = take(guard, step, 9.0 if step in skipped else 3.0 + step % 2)
        assert numbers.is_applied == (step not in skipped)
    with pytest.raises(TrainingError, match="too many updates") as error:
        take(guard, 240, 9.0)
    assert "3: steps 150, 229, 240" in str(error.value.found)
    assert guard.num_skipped == 4
