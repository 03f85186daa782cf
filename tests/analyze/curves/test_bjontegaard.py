"""Bjøntegaard deltas: known answers, and reasons in words where there is no answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from analyze.curves.bjontegaard import bd_result
from analyze.curves.rate_quality import MAP, PSNR, Curve, CurvePoint

RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
DECIBELS = (30.0, 33.0, 35.5, 37.0, 38.0)


def curve(
    rates: Sequence[float], qualities: Sequence[float], name: str = "test", metric: str = PSNR
) -> Curve:
    points = tuple(
        CurvePoint(label=f"{rate}", bits_per_pixel=rate, quality=quality)
        for rate, quality in zip(rates, qualities, strict=True)
    )
    return Curve(name=name, metric=metric, points=points)


ANCHOR = curve(RATES, DECIBELS, "anchor")


def test_half_the_bits_at_equal_quality_are_minus_50_percent() -> None:
    result = bd_result(ANCHOR, curve([rate / 2 for rate in RATES], DECIBELS))
    assert result.bd_rate_percent == pytest.approx(-50)
    assert result.bd_quality is not None
    assert result.bd_quality > 0
    assert result.overlap == 1
    assert result.note == ""
    assert (result.anchor, result.test, result.metric) == ("anchor", "test", "PSNR (dB)")


def test_two_decibels_more_at_equal_bits_are_two_decibels() -> None:
    result = bd_result(ANCHOR, curve(RATES, [quality + 2 for quality in DECIBELS]))
    assert result.bd_quality == pytest.approx(2)
    assert result.bd_rate_percent is not None
    assert result.bd_rate_percent < 0
    assert result.overlap == pytest.approx(0.6)
    assert result.note == "BD-rate over 60% of the range of quality only"


def test_curve_compared_with_itself_gives_zero() -> None:
    result = bd_result(ANCHOR, ANCHOR)
    assert result.bd_rate_percent == pytest.approx(0)
    assert result.bd_quality == pytest.approx(0)


def test_interpolation_is_that_of_jvet_between_unequal_numbers_of_points() -> None:
    # Log-rate is linear in quality, which PCHIP reproduces: the same line through other points.
    anchor = curve([10**n for n in (0, 1, 2, 3)], [30, 32, 34, 36], "anchor")
    test = curve([2 * 10**n for n in (0, 0.5, 2.5, 3)], [30, 31, 35, 36])
    assert bd_result(anchor, test).bd_rate_percent == pytest.approx(100)


def test_map_that_falls_is_left_out_and_named() -> None:
    anchor = curve(RATES, (0.40, 0.45, 0.47, 0.50, 0.51), "anchor", MAP)
    test = curve(RATES, (0.40, 0.46, 0.44, 0.52, 0.51), metric=MAP)
    clean = curve((0.1, 0.2, 0.8), (0.40, 0.46, 0.52), metric=MAP)
    result, expected = bd_result(anchor, test), bd_result(anchor, clean)
    assert result.bd_rate_percent == expected.bd_rate_percent
    assert result.bd_quality == expected.bd_quality
    assert "2 of 5 points of test left out: they cost bits and gain no quality" in result.note
    assert "rough: test has 3 points, 4 are usual" in result.note


@pytest.mark.parametrize(
    ("points", "held"),
    [
        ([], "no point"),
        ([(0.1, 30.0)], "one point"),
        ([(0.1, 30.0), (0.2, 29.0)], "one point"),
        ([(0.1, 30.0), (0.2, math.inf)], "one point"),
        ([(0.1, math.nan), (0.0, 30.0)], "no point"),
    ],
    ids=["none", "one", "falling", "lossless", "not finite"],
)
def test_fewer_than_two_usable_points_are_a_reason_not_a_number(
    points: list[tuple[float, float]], held: str
) -> None:
    short = curve([rate for rate, _ in points], [quality for _, quality in points])
    for result in (bd_result(ANCHOR, short), bd_result(short, ANCHOR)):
        assert result.bd_rate_percent is None
        assert result.bd_quality is None
        assert result.note.startswith(f"no BD: test has {held} left, at least 2 are needed")


def test_curves_of_other_quality_have_no_bd_rate_but_a_bd_of_quality() -> None:
    result = bd_result(ANCHOR, curve(RATES, [quality + 20 for quality in DECIBELS]))
    assert result.bd_rate_percent is None
    assert result.bd_quality == pytest.approx(20)
    assert result.overlap == 0
    assert result.note == "no BD-rate: no quality that both reach, test lies above throughout"


def test_curves_of_other_rates_have_no_bd_of_quality_but_a_bd_rate() -> None:
    result = bd_result(ANCHOR, curve([rate / 100 for rate in RATES], DECIBELS))
    assert result.bd_rate_percent == pytest.approx(-99)
    assert result.bd_quality is None
    assert "no BD of quality: no rate that both have, test needs fewer bits" in result.note


def test_curves_that_only_touch_have_no_bd_rate() -> None:
    result = bd_result(curve((1, 2), (30, 31), "anchor"), curve((1, 2), (31, 32)))
    assert result.bd_rate_percent is None
    assert "no quality that both reach" in result.note


def test_overlap_of_less_than_a_percent_is_not_called_none() -> None:
    result = bd_result(curve((1, 2), (30, 31), "anchor"), curve((1, 2), (30.999, 32)))
    assert result.bd_rate_percent == pytest.approx(-50, abs=0.1)
    assert "BD-rate over less than 1% of the range of quality" in result.note
    assert "0%" not in result.note


def test_different_metrics_are_not_compared() -> None:
    with pytest.raises(ValueError, match="anchor is of PSNR"):
        bd_result(ANCHOR, curve(RATES, DECIBELS, metric=MAP))
