"""What a choice saves against one lambda for all levels: known answers, nothing extrapolated."""

from __future__ import annotations

import math

import pytest

from analyze.curves.bjontegaard import RateMap, saving

CURVE = [RateMap(bits_per_pixel=bits, map=m) for bits, m in ((0.1, 0.40), (0.4, 0.50), (1.6, 0.52))]


def test_saving_reads_the_same_lambda_curve_in_log_bits() -> None:
    found = saving(CURVE, RateMap(bits_per_pixel=0.1, map=0.45))
    assert found.same_lambda_bits_per_pixel == pytest.approx(math.sqrt(0.1 * 0.4))
    assert found.fraction == pytest.approx(0.5)


def test_saving_at_a_point_of_the_curve_is_nothing_and_a_dearer_choice_is_a_loss() -> None:
    at_point = saving(CURVE, CURVE[1])
    assert at_point.fraction == pytest.approx(0.0)
    dearer = saving(CURVE, RateMap(bits_per_pixel=0.8, map=0.50))
    assert dearer.fraction == pytest.approx(-1.0)


def test_point_below_the_hull_of_the_same_lambda_curve_does_not_help_the_choice() -> None:
    bad = RateMap(bits_per_pixel=0.3, map=0.41)
    chosen = RateMap(bits_per_pixel=0.1, map=0.45)
    assert saving([*CURVE, bad], chosen).fraction == saving(CURVE, chosen).fraction


@pytest.mark.parametrize(
    ("bits", "chosen_map", "word"),
    [(0.1, 0.3, "below what one lambda"), (1.7, 0.6, "above what one lambda")],
)
def test_saving_outside_the_curve_is_not_extrapolated(
    bits: float, chosen_map: float, word: str
) -> None:
    found = saving(CURVE, RateMap(bits_per_pixel=bits, map=chosen_map))
    assert found.fraction is None and word in found.why


def test_better_than_the_whole_curve_for_fewer_bits_saves_at_least_those() -> None:
    found = saving(CURVE, RateMap(bits_per_pixel=0.4, map=0.6))
    assert found.at_least and found.fraction == pytest.approx(0.75)
    assert found.same_lambda_bits_per_pixel == pytest.approx(1.6)
    assert "at mAP 0.5200, the highest of 3" in found.why and "has 0.6000" in found.why
    assert not saving(CURVE, CURVE[2]).at_least
    alone = saving(CURVE[:1], RateMap(bits_per_pixel=0.05, map=0.45))
    assert alone.fraction == pytest.approx(0.5)


def test_saving_without_a_curve_or_without_bits_says_why() -> None:
    assert saving([], CURVE[0]).why == "no lambda has every level"
    assert "no bits" in saving(CURVE, RateMap(bits_per_pixel=0.0, map=0.45)).why
