"""Scaling fit of validation score over compute: ``L = E + A * (C / C0) ** -alpha``.

For a given exponent the formula is linear in floor and factor, so both come from non-negative least
squares and only the exponent is searched for. Nothing depends on a starting point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar, nnls

from model.eval.scaling_laws import LadderPoint, NextRung, ScalingCurve, ScalingFit

LEAST_POINTS = 2
LEAST_POINTS_WITH_FLOOR = 4  # one more than the constants, or a curve fits any three points
EXPONENTS = (0.005, 3.0)  # far beyond what any published law has
SEARCH_POINTS = 200
WITH_FLOOR = "L = E + A * (C / C0)^-alpha"
WITHOUT_FLOOR = "L = A * (C / C0)^-alpha"

Floats = npt.NDArray[np.float64]


def fit_ladder(points: Sequence[LadderPoint], *, next_rung: NextRung | None) -> ScalingFit:
    """Return the curve through the frontier of a ladder.

    Args:
        points: finished trainings; their ``is_on_frontier`` is set here.
        next_rung: what to predict; its own prediction is filled in.
    """
    marked = mark_frontier(points)
    used = [point for point in marked if point.is_on_frontier]
    flops = np.array([point.flops for point in used])
    scores = np.array([point.bits_per_byte for point in used])
    with_floor = len(used) >= LEAST_POINTS_WITH_FLOOR
    curve = fit_curve(flops, scores, with_floor=with_floor) if len(used) >= LEAST_POINTS else None
    freedom = len(used) - (3 if with_floor else 2)
    fit = ScalingFit(
        form=WITH_FLOOR if with_floor else WITHOUT_FLOOR,
        why=_why(len(used), len(marked)),
        curve=curve,
        alternatives=tuple(_alternatives(flops, scores, with_floor=with_floor)) if curve else (),
        points=tuple(marked),
        degrees_of_freedom=max(0, freedom),
        residual_bits_per_byte=_residual(curve, flops, scores, freedom),
        next_rung=next_rung,
    )
    return fit.model_copy(update={"next_rung": next_rung and _filled(next_rung, fit)})


def mark_frontier(points: Sequence[LadderPoint]) -> list[LadderPoint]:
    """Return points by compute, those marked that score lower than all of less compute."""
    marked = []
    best = float("inf")
    for point in sorted(points, key=lambda item: item.flops):
        is_lower = point.bits_per_byte < best
        best = min(best, point.bits_per_byte)
        marked.append(point.model_copy(update={"is_on_frontier": is_lower}))
    return marked


def fit_curve(flops: Floats, scores: Floats, *, with_floor: bool) -> ScalingCurve:
    """Return the least-squares curve of one form; floor and factor are never negative."""
    reference = float(flops.min())
    logs = np.log(flops / reference)

    def solve(log_exponent: float) -> tuple[Floats, float]:
        falling = np.exp(-np.exp(log_exponent) * logs)
        columns = [np.ones_like(falling), falling] if with_floor else [falling]
        return nnls(np.stack(columns, axis=1), scores)

    def misfit(log_exponent: float) -> float:
        return solve(log_exponent)[1]

    grid = np.log(np.geomspace(*EXPONENTS, SEARCH_POINTS))
    best = int(np.argmin([misfit(value) for value in grid]))
    bounds = (grid[max(0, best - 1)], grid[min(SEARCH_POINTS - 1, best + 1)])
    found: Any = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    constants, _ = solve(found.x)
    return ScalingCurve(
        floor=float(constants[0]) if with_floor else 0.0,
        factor=float(constants[-1]),
        exponent=float(np.exp(found.x)),
        reference_flops=reference,
    )


def _alternatives(flops: Floats, scores: Floats, *, with_floor: bool) -> list[ScalingCurve]:
    """Return the fits without each point, and the fit of the other form, where they exist."""
    least = 3 if with_floor else LEAST_POINTS
    curves = []
    if len(flops) > least:
        for left_out in range(len(flops)):
            kept = np.arange(len(flops)) != left_out
            curves.append(fit_curve(flops[kept], scores[kept], with_floor=with_floor))
    if len(flops) > LEAST_POINTS:
        curves.append(fit_curve(flops, scores, with_floor=not with_floor))
    return curves


def _residual(
    curve: ScalingCurve | None, flops: Floats, scores: Floats, freedom: int
) -> float | None:
    if curve is None or freedom < 1:
        return None
    left = np.array([curve.at(value) for value in flops]) - scores
    return float(np.sqrt((left**2).sum() / freedom))


def _why(num_used: int, num_points: int) -> str:
    if num_used < LEAST_POINTS:
        return "no curve: more compute never scored lower"
    given = f"{num_used} of {num_points} trainings are on the frontier"
    if num_used >= LEAST_POINTS_WITH_FLOOR:
        return f"{given}: enough for a floor"
    return f"{given}: {LEAST_POINTS_WITH_FLOOR} would tell a floor, so none is assumed"


def _filled(rung: NextRung, fit: ScalingFit) -> NextRung:
    low, high = fit.span(rung.flops)
    value = fit.curve.at(rung.flops) if fit.curve else None
    return rung.model_copy(update={"bits_per_byte": value, "low": low, "high": high})
