"""Which lambda to train next."""

from __future__ import annotations

import math

import pytest

from analyze.allocation.next_lambdas import LambdaPoint, LevelTarget, mse_for_drop, suggest_lambda
from configs.errors import ConfigError


def power_law(lmbda: float, scale: float = 2.0, exponent: float = 0.8) -> LambdaPoint:
    """The minimum of MSE + lambda * bits on MSE = scale * bits^-exponent."""
    bits = (scale * exponent / lmbda) ** (1 / (exponent + 1))
    return LambdaPoint(lmbda=lmbda, bits_per_position=bits, mse=scale * bits**-exponent)


def test_largest_gap_of_the_curve_is_halved_in_log_lambda() -> None:
    points = [power_law(lmbda) for lmbda in (0.3, 0.01, 0.02)]
    found = suggest_lambda(2, points)
    assert found.lmbda == pytest.approx(math.sqrt(0.02 * 0.3), rel=5e-3)
    assert "between lambda 0.02 and 0.3" in found.why
    assert found.command == f"train-level --level 2 --lambda {found.lmbda:g}"


def test_gap_is_measured_on_the_curve_not_in_lambda() -> None:
    points = [
        LambdaPoint(lmbda=0.01, bits_per_position=1.00, mse=1.00),
        LambdaPoint(lmbda=0.10, bits_per_position=0.99, mse=1.01),
        LambdaPoint(lmbda=0.11, bits_per_position=0.20, mse=3.00),
    ]
    assert 0.1 < suggest_lambda(0, points).lmbda < 0.11


def test_single_run_asks_for_one_of_fewer_bits() -> None:
    found = suggest_lambda(0, [power_law(0.1)])
    assert found.lmbda == pytest.approx(0.316)
    assert "only lambda 0.1" in found.why


@pytest.mark.parametrize("kind", ["bits", "mse"])
@pytest.mark.parametrize("wanted", [0.03, 0.004, 0.6])
def test_target_on_a_power_law_gives_its_lambda_inside_and_beyond_the_curve(
    kind: str, wanted: float
) -> None:
    points = [power_law(lmbda) for lmbda in (0.01, 0.1, 0.2)]
    goal = power_law(wanted)
    value = goal.bits_per_position if kind == "bits" else goal.mse
    target = LevelTarget(kind="bits" if kind == "bits" else "mse", value=value)
    found = suggest_lambda(1, points, target)
    assert found.lmbda == pytest.approx(wanted, rel=5e-3)
    assert ("within" if 0.01 < wanted < 0.2 else "beyond") in found.why


def test_one_run_is_enough_to_reach_a_target_by_its_slope() -> None:
    target = LevelTarget(kind="mse", value=power_law(0.05).mse)
    assert suggest_lambda(0, [power_law(0.1)], target).lmbda == pytest.approx(0.05, rel=5e-3)


@pytest.mark.parametrize(("bits", "expected"), [(1e-6, 1.0), (1e6, 0.001)])
def test_extrapolation_goes_no_further_than_a_factor_of_ten(bits: float, expected: float) -> None:
    points = [power_law(0.01), power_law(0.1)]
    found = suggest_lambda(0, points, LevelTarget(kind="bits", value=bits))
    assert found.lmbda == pytest.approx(expected)
    assert "bounded to a factor of ten" in found.why


def test_run_that_another_beats_in_both_is_not_interpolated_through() -> None:
    points = [power_law(0.01), power_law(0.1)]
    bad = LambdaPoint(lmbda=0.05, bits_per_position=99.0, mse=99.0)
    target = LevelTarget(kind="mse", value=power_law(0.03).mse)
    assert suggest_lambda(0, [*points, bad], target) == suggest_lambda(0, points, target)


def test_without_a_usable_run_the_error_says_what_to_do() -> None:
    nothing = LambdaPoint(lmbda=0.1, bits_per_position=0.0, mse=1.0)
    with pytest.raises(ConfigError, match=r"run train-level --level 3 --lambda 0\.01 first"):
        suggest_lambda(3, [nothing])


def test_target_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        suggest_lambda(0, [power_law(0.1)], LevelTarget(kind="bits", value=0.0))


def test_drop_becomes_the_largest_error_that_keeps_it() -> None:
    found = mse_for_drop(lambda mse: mse / 100, 0.02, 0.01, 50.0)
    assert found == pytest.approx(2.0, rel=1e-5)
    assert found is not None and found / 100 <= 0.02
    assert mse_for_drop(lambda mse: mse / 100, 0.02, 0.01, 1.0) == 1.0
    assert mse_for_drop(lambda mse: mse / 100, 0.02, 3.0, 9.0) is None
    with pytest.raises(ValueError, match="0 < low"):
        mse_for_drop(lambda mse: mse, 0.1, 0.0, 1.0)
