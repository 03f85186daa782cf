"""Pareto fronts and convex hulls of rate-distortion points, and rising sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.curves.rate_quality import lower_hull, pareto_front, rising

# Whole numbers, so that no comparison hangs on rounding.
POINTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25)


def test_hull_of_known_points_leaves_out_what_lies_above_it() -> None:
    rates = [3.0, 1.0, 2.0, 4.0, 2.5, 5.0]
    distortions = [3.0, 10.0, 7.0, 1.0, 3.5, 1.5]
    assert pareto_front(rates, distortions).tolist() == [1, 2, 4, 0, 3]
    assert lower_hull(rates, distortions).tolist() == [1, 4, 3]


def test_point_on_an_edge_is_no_vertex() -> None:
    assert lower_hull([0, 1, 2], [2, 1, 0]).tolist() == [0, 2]


def test_equal_points_are_kept_once() -> None:
    assert pareto_front([1, 1, 1], [2, 2, 3]).tolist() == [0]


def test_no_points_have_an_empty_hull() -> None:
    assert lower_hull([], []).tolist() == []


@pytest.mark.parametrize(
    ("rates", "distortions"), [([1.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([1.0], [1e999])]
)
def test_values_that_are_no_points_are_refused(
    rates: list[float], distortions: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"not finite|rates and"):
        lower_hull(rates, distortions)


@given(POINTS)
def test_front_holds_exactly_the_points_that_none_beats(points: list[tuple[int, int]]) -> None:
    kept = {points[place] for place in pareto_front(*zip(*points, strict=True))}
    unbeaten = {
        (rate, error)
        for rate, error in points
        if not any((r <= rate and e <= error) and (r, e) != (rate, error) for r, e in points)
    }
    assert kept == unbeaten


@given(POINTS)
def test_no_point_lies_below_the_hull_and_its_slopes_rise(points: list[tuple[int, int]]) -> None:
    hull = [points[place] for place in lower_hull(*zip(*points, strict=True))]
    slopes = [(e1 - e0) / (r1 - r0) for (r0, e0), (r1, e1) in itertools.pairwise(hull)]
    assert all(slope < 0 for slope in slopes)
    assert all(a < b for a, b in itertools.pairwise(slopes))
    assert hull[0][0] == min(rate for rate, _ in points)
    assert hull[-1][1] == min(error for _, error in points)
    for (r0, e0), (r1, e1) in itertools.pairwise(hull):
        for rate, error in points:
            if r0 <= rate <= r1:
                assert (error - e0) * (r1 - r0) >= (e1 - e0) * (rate - r0)


def test_rising_sequence_pools_what_falls() -> None:
    assert rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert rising(np.array([3.0, 2.0, 1.0])).tolist() == [2.0, 2.0, 2.0]
    assert rising(np.zeros(0)).tolist() == []
