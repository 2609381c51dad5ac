"""Scaling laws: planted constants come back, few points claim little, published ones are marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import curve_fit

from model.eval.scaling_laws import CHINCHILLA, LadderPoint, NextRung, ScalingFit, stated_prediction
from tasks.planning.scaling_fit import (
    WITH_FLOOR,
    WITHOUT_FLOOR,
    fit_curve,
    fit_ladder,
    mark_frontier,
)

FLOPS = np.array([1e15, 3e15, 1e16, 4e16, 2e17, 1e18])


def points(flops: Sequence[float], scores: Sequence[float]) -> list[LadderPoint]:
    return [
        LadderPoint(
            name=f"1m-{number}",
            size="1m",
            num_params=1_000_000,
            tokens=1_000_000 * (number + 1),
            flops=compute,
            bits_per_byte=score,
            is_on_frontier=False,
        )
        for number, (compute, score) in enumerate(zip(flops, scores, strict=True))
    ]


def planted(flops: np.ndarray, *, floor: float, factor: float, exponent: float) -> np.ndarray:
    return floor + factor * (flops / 1e15) ** -exponent


def upcoming(flops: float) -> NextRung:
    return NextRung(size="10m", tokens=1, flops=flops, bits_per_byte=None, low=None, high=None)


@pytest.mark.parametrize(
    ("floor", "factor", "exponent"), [(0.7, 0.9, 0.15), (0.0, 1.4, 0.08), (0.3, 0.2, 0.6)]
)
def test_fit_recovers_planted_constants(floor: float, factor: float, exponent: float) -> None:
    scores = planted(FLOPS, floor=floor, factor=factor, exponent=exponent)
    fit = fit_ladder(points(FLOPS.tolist(), scores.tolist()), next_rung=upcoming(1e19))
    assert fit.curve
    assert fit.form == WITH_FLOOR
    assert fit.degrees_of_freedom == 3
    assert fit.curve.reference_flops == 1e15
    constants = (fit.curve.floor, fit.curve.factor, fit.curve.exponent)
    assert constants == pytest.approx((floor, factor, exponent), rel=1e-4, abs=1e-4)
    assert fit.residual_bits_per_byte == pytest.approx(0.0, abs=1e-6)
    assert fit.next_rung
    expected = float(planted(np.array(1e19), floor=floor, factor=factor, exponent=exponent))
    assert fit.next_rung.bits_per_byte == pytest.approx(expected, rel=1e-4)


def test_fit_of_noisy_scores_is_scipys_least_squares() -> None:
    noise = np.random.default_rng(5).normal(0, 0.004, len(FLOPS))
    scores = planted(FLOPS, floor=0.7, factor=0.9, exponent=0.15) + noise

    def law(compute: np.ndarray, floor: float, factor: float, exponent: float) -> np.ndarray:
        return planted(compute, floor=floor, factor=factor, exponent=exponent)

    expected, _ = curve_fit(law, FLOPS, scores, p0=(0.5, 1.0, 0.2))
    curve = fit_curve(FLOPS, scores, with_floor=True)
    assert (curve.floor, curve.factor, curve.exponent) == pytest.approx(expected, rel=1e-3)


def test_fit_of_three_trainings_assumes_no_floor_and_gives_a_range() -> None:
    scores = planted(FLOPS[:3], floor=0.7, factor=0.9, exponent=0.15)
    fit = fit_ladder(points(FLOPS[:3].tolist(), scores.tolist()), next_rung=upcoming(1e17))
    assert (fit.form, fit.degrees_of_freedom) == (WITHOUT_FLOOR, 1)
    assert fit.curve
    assert fit.curve.floor == 0
    assert fit.next_rung
    assert fit.next_rung.low
    assert fit.next_rung.high
    truth = float(planted(np.array(1e17), floor=0.7, factor=0.9, exponent=0.15))
    assert fit.next_rung.low < truth <= fit.next_rung.high * 1.0001


def test_fit_of_two_trainings_goes_through_both_and_claims_no_range() -> None:
    fit = fit_ladder(points([1e15, 1e16], [2.0, 1.0]), next_rung=upcoming(1e17))
    assert fit.next_rung
    assert fit.next_rung.bits_per_byte == pytest.approx(0.5)  # a half with each ten times more
    assert (fit.next_rung.low, fit.next_rung.high) == (None, None)
    assert (fit.degrees_of_freedom, fit.residual_bits_per_byte) == (0, None)
    prediction = fit.predict(1e17, source="ladder")
    assert prediction
    assert prediction.text() == (
        "0.5000 bits per byte (ladder: L = A * (C / C0)^-alpha through 2 trainings, "
        "10.0x the compute of the largest)"
    )


def test_fit_leaves_out_what_less_compute_beats() -> None:
    trained = points([1e16, 1e15, 3e15, 2e16], [1.0, 2.0, 2.5, 1.2])
    marked = {point.flops: point.is_on_frontier for point in mark_frontier(trained)}
    assert marked == {1e15: True, 3e15: False, 1e16: True, 2e16: False}
    fit = fit_ladder(trained, next_rung=None)
    assert fit.curve
    assert fit.curve.at(1e16) == pytest.approx(1.0)
    assert "2 of 4 trainings" in fit.why


def test_fit_without_gain_from_compute_has_no_curve() -> None:
    fit = fit_ladder(points([1e15, 1e16], [1.0, 1.1]), next_rung=upcoming(1e17))
    assert fit.curve is None
    assert "never scored lower" in fit.why
    assert fit.predict(1e17, source="ladder") is None
    assert fit.next_rung
    assert fit.next_rung.bits_per_byte is None


def test_fit_survives_its_file() -> None:
    fit = fit_ladder(points([1e15, 1e16, 1e17], [2.0, 1.5, 1.3]), next_rung=upcoming(1e18))
    assert ScalingFit.model_validate_json(fit.model_dump_json()) == fit


def test_published_law_gives_chinchillas_own_loss() -> None:
    # 70B parameters on 1.4T tokens, by hand: 1.69 + 406.4 / 4862 + 410.7 / 2517.
    found = CHINCHILLA.nats_per_token(num_params=70_000_000_000, num_tokens=1_400_000_000_000)
    assert found == pytest.approx(1.69 + 0.0836 + 0.1632, abs=1e-3)


def test_stated_prediction_of_the_gpu_hour_is_marked_rough() -> None:
    found = stated_prediction(
        num_params=135_300_000, num_tokens=1_704_000_000, vocab_size=32_768, bytes_per_token=4.4
    )
    assert found
    assert found.kind == "stated"
    assert found.low
    assert found.high
    assert 1.0 < found.low <= found.bits_per_byte <= found.high < 1.2
    assert "2.9x in tokens below the runs it was fitted on: rough" in found.source


def test_stated_prediction_of_a_large_run_is_not_rough() -> None:
    found = stated_prediction(
        num_params=490_000_000, num_tokens=10**10, vocab_size=32_768, bytes_per_token=4.4
    )
    assert found
    assert "rough" not in found.source
    longer = stated_prediction(
        num_params=490_000_000, num_tokens=10**10, vocab_size=32_768, bytes_per_token=8.8
    )
    assert longer
    assert longer.bits_per_byte == pytest.approx(found.bits_per_byte / 2)


def test_stated_prediction_says_nothing_where_a_uniform_guess_is_better() -> None:
    assert math.log(1_280) < CHINCHILLA.nats_per_token(num_params=10**6, num_tokens=10**6)
    assert (
        stated_prediction(
            num_params=1_017_216, num_tokens=1_556_480, vocab_size=1_280, bytes_per_token=4.0
        )
        is None
    )
