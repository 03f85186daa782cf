"""Allocation of bits over levels against brute force, and its targets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analyze.allocation.choice import rising_drops
from analyze.allocation.lagrangian import (
    Allocated,
    Option,
    hull_combinations,
    map_drop_cost,
    weighted_mse_cost,
    within_bits,
    within_cost,
)
from analyze.allocation.search import Target, search

DROP = map_drop_cost
EPS = 1e-9


def option(level: int, name: str, bits: float, drop: float) -> Option:
    return Option(
        level=level, name=name, bits_per_pixel=bits, mse=drop * 10, map_drop=drop, run=name
    )


@st.composite
def pyramids(draw: st.DrawFn) -> list[Option]:
    """Up to four levels of up to five points each; the last may be derived from the one below."""
    figure = st.integers(0, 40)
    num_levels = draw(st.integers(1, 4))
    options = [
        option(level, f"run_{place}", draw(figure) / 8, draw(figure) / 64)
        for level in range(num_levels)
        for place in range(draw(st.integers(1, 5)))
    ]
    if num_levels > 1 and draw(st.booleans()):
        below = [each for each in options if each.level == num_levels - 2]
        options += [
            Option(
                level=num_levels - 1,
                name=f"derived from {each.name}",
                bits_per_pixel=0.0,
                mse=1.0,
                map_drop=draw(figure) / 64,
                kind="derived",
                source=(each.level, each.name),
            )
            for each in below
        ]
    # Some of a level's runs may be decoded beside one option of the next coarser level alone.
    for place, each in enumerate(options):
        coarser = [other for other in options if other.level == each.level + 1]
        if coarser and draw(st.booleans()):
            beside = draw(st.sampled_from(coarser))
            options[place] = replace(each, beside=(beside.level, beside.name))
    assume(brute_force(options))
    return options


def brute_force(options: Sequence[Option]) -> list[tuple[float, float]]:
    """(bits, cost) of every combination that can be sent."""
    levels = sorted({each.level for each in options})
    by_level = [[each for each in options if each.level == level] for level in levels]
    found = []
    for picked in itertools.product(*by_level):
        names = {(each.level, each.name) for each in picked}
        if all(
            needed in names for each in picked for needed in (each.source, each.beside) if needed
        ):
            bits = sum(each.bits_per_pixel for each in picked)
            found.append((bits, sum(each.map_drop or 0.0 for each in picked)))
    return found


@given(pyramids())
@settings(deadline=None)
def test_no_combination_is_better_than_one_of_the_hull_at_its_bits(options: list[Option]) -> None:
    everything = brute_force(options)
    hull = hull_combinations(options, DROP)
    for each in hull:
        best = min(cost for bits, cost in everything if bits <= each.bits_per_pixel + EPS)
        assert each.cost == pytest.approx(best, abs=EPS)
    assert hull[0].bits_per_pixel == pytest.approx(min(bits for bits, _ in everything), abs=EPS)
    assert hull[-1].cost == pytest.approx(min(cost for _, cost in everything), abs=EPS)
    for first, second in itertools.pairwise(hull):
        assert first.bits_per_pixel < second.bits_per_pixel
        assert first.cost > second.cost


@given(pyramids())
@settings(deadline=None)
def test_hull_combinations_minimise_the_lagrangian_for_every_multiplier(
    options: list[Option],
) -> None:
    everything = brute_force(options)
    hull = hull_combinations(options, DROP)
    for multiplier in (0.0, 0.003, 0.05, 0.4, 9.0):
        best = min(cost + multiplier * bits for bits, cost in everything)
        ours = min(each.cost + multiplier * each.bits_per_pixel for each in hull)
        assert ours == pytest.approx(best, abs=EPS)


@given(pyramids(), st.integers(0, 200))
@settings(deadline=None)
def test_budget_is_kept_and_the_best_lies_between_bound_and_solution(
    options: list[Option], eighths: int
) -> None:
    budget = eighths / 8
    fitting = [cost for bits, cost in brute_force(options) if bits <= budget + EPS]
    found = within_bits(options, DROP, budget)
    assert (found is None) == (not fitting)
    assume(found is not None)
    assert found is not None
    combination, bound = found
    assert combination.bits_per_pixel <= budget + EPS
    assert bound - EPS <= min(fitting) <= combination.cost + EPS
    below = [
        each for each in hull_combinations(options, DROP) if each.bits_per_pixel <= budget + EPS
    ]
    assert combination.cost <= below[-1].cost + EPS


@given(pyramids(), st.integers(0, 160))
@settings(deadline=None)
def test_cost_limit_is_kept_and_the_fewest_bits_lie_between_bound_and_solution(
    options: list[Option], parts: int
) -> None:
    limit = parts / 64
    fitting = [bits for bits, cost in brute_force(options) if cost <= limit + EPS]
    found = within_cost(options, DROP, limit)
    assert (found is None) == (not fitting)
    assume(found is not None)
    assert found is not None
    combination, bound = found
    assert combination.cost <= limit + EPS
    assert bound - EPS <= min(fitting) <= combination.bits_per_pixel + EPS


def test_exchange_uses_bits_that_the_hull_leaves_over() -> None:
    # The middle point lies above the chord, so the hull jumps from 1 to 5 bits.
    options = [option(0, "low", 1, 1.0), option(0, "mid", 3, 0.9), option(0, "high", 5, 0.0)]
    assert [each.bits_per_pixel for each in hull_combinations(options, DROP)] == [1, 5]
    found = within_bits(options, DROP, 4)
    assert found is not None
    assert found[0].runs == {0: "mid"}
    assert found[1] == pytest.approx(0.25)


def test_derived_level_goes_with_the_option_it_was_made_from() -> None:
    source = [option(3, "coarse", 1, 0.2), option(3, "fine", 2, 0.05)]
    derived = [
        Option(
            level=4,
            name=f"from {each.name}",
            bits_per_pixel=0.0,
            mse=1.0,
            map_drop=drop,
            kind="derived",
            source=(3, each.name),
        )
        for each, drop in zip(source, (0.3, 0.0), strict=True)
    ]
    hull = hull_combinations([*source, *derived, option(4, "own", 0.5, 0.1)], DROP)
    chosen = [tuple(each.name for each in combination.options) for combination in hull]
    assert chosen == [("coarse", "from coarse"), ("fine", "from fine")]


def test_gain_counts_nothing_and_a_drop_that_was_not_measured_is_an_error() -> None:
    assert DROP(option(2, "b", 1, -0.01)) == 0
    with pytest.raises(ValueError, match="no mAP drop"):
        DROP(Option(level=2, name="a", bits_per_pixel=1, mse=0.5))


def test_weighted_error_of_a_combination_is_the_error_over_all_elements() -> None:
    options = [option(0, "a", 1, 0.3), option(1, "b", 1, 0.6)]
    (only,) = hull_combinations(options, weighted_mse_cost({0: 0.75, 1: 0.25}))
    assert only.cost == pytest.approx(0.75 * 3 + 0.25 * 6)


def test_names_that_are_not_unique_and_sources_that_are_gone_are_refused() -> None:
    with pytest.raises(ValueError, match="two options named a"):
        hull_combinations([option(0, "a", 1, 0), option(0, "a", 2, 0)], DROP)
    lost = Option(
        level=1, name="d", bits_per_pixel=0, mse=1, map_drop=0, kind="derived", source=(0, "gone")
    )
    with pytest.raises(ValueError, match="not there"):
        hull_combinations([option(0, "a", 1, 0), lost], DROP)


LADDER = [option(0, f"r{place}", place + 1, (15 - place) ** 2 / 1000) for place in range(16)]


class Measured:
    """Real drops that are a multiple of the predicted ones; counts its runs."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.num_runs = 0

    def __call__(self, combination: Allocated) -> float:
        self.num_runs += 1
        return combination.cost * self.factor


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.7, 6.0, 40.0])
def test_walk_finds_the_cheapest_that_holds_when_the_prediction_is_wrong(factor: float) -> None:
    verify = Measured(factor)
    found = search(LADDER, Target(kind="map_drop", value=0.03), DROP, verify, max_runs=8)
    held = [each for each in LADDER if (each.map_drop or 0) * factor <= 0.03]
    assert found.met
    assert found.combination.options == (held[0],)
    assert found.verified_drop == found.combination.cost * factor
    assert verify.num_runs == len(found.tried) <= 8


def test_verified_drop_is_not_held_against_a_bound_of_predicted_drops() -> None:
    target = Target(kind="map_drop", value=0.03)
    predicted = search(LADDER, target, DROP)
    assert predicted.bound is not None
    found = search(LADDER, target, DROP, Measured(0.1))
    # Drops are a tenth of what was predicted: fewer bits hold than the prediction allows.
    assert found.combination.bits_per_pixel < predicted.bound
    assert found.bound is None


@given(
    st.lists(st.integers(0, 64), min_size=len(LADDER), max_size=len(LADDER)),
    st.integers(0, 64),
    st.integers(1, 8),
)
@settings(deadline=None)
def test_walk_keeps_its_promises_whatever_the_real_drops_are(
    drops: list[int], limit: int, max_runs: int
) -> None:
    tried: list[int] = []

    def verify(combination: Allocated) -> float:
        tried.append(LADDER.index(combination.options[0]))
        return drops[tried[-1]] / 64

    target = Target(kind="map_drop", value=limit / 64)
    found = search(LADDER, target, DROP, verify, max_runs=max_runs)
    held = [place for place in tried if drops[place] <= limit]
    assert len(tried) == len(set(tried)) == len(found.tried) <= max_runs
    assert found.met == bool(held)
    if held:
        assert found.combination.options == (LADDER[min(held)],)
    else:
        assert found.verified_drop == min(drops[place] for place in tried) / 64


def test_walk_stops_at_the_limit_of_runs_with_what_held() -> None:
    verify = Measured(0.1)
    found = search(LADDER, Target(kind="map_drop", value=0.003), DROP, verify, max_runs=2)
    assert verify.num_runs == 2
    assert found.met and found.verified_drop is not None and found.verified_drop <= 0.003
    assert "limit of 2" in found.why


def test_walk_that_nothing_satisfies_says_so_and_gives_the_smallest_measured_drop() -> None:
    found = search(LADDER, Target(kind="map_drop", value=0.01), DROP, lambda each: 0.5 + each.cost)
    assert not found.met
    assert found.verified_drop == 0.5
    assert "smaller lambdas" in found.why


def test_target_of_bits_takes_the_best_of_a_few_runs_within_the_bits() -> None:
    verify = Measured(2.0)
    found = search(LADDER, Target(kind="bpp", value=7.5), DROP, verify)
    assert found.met and verify.num_runs == 4
    assert found.combination.bits_per_pixel == 7
    assert found.verified_drop == pytest.approx(2 * found.combination.cost)
    # Real drops that rise with the bits: of the four dearest within them the cheapest.
    odd = search(LADDER, Target(kind="bpp", value=7.5), DROP, lambda each: each.bits_per_pixel)
    assert [each.bits_per_pixel for each, _ in odd.tried] == [7, 6, 5, 4]
    assert odd.combination.bits_per_pixel == odd.verified_drop == 4
    one = search(LADDER, Target(kind="bpp", value=7.5), DROP, verify, max_runs=1)
    assert len(one.tried) == 1


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Target(kind="bpp", value=0.5), "larger lambdas"),
        (Target(kind="mse", value=-1.0), "smaller lambdas"),
        (Target(kind="map_drop", value=-1.0), "smaller lambdas"),
    ],
)
def test_target_out_of_reach_gives_the_nearest_combination_and_says_what_to_train(
    target: Target, word: str
) -> None:
    found = search(LADDER, target, DROP)
    assert not found.met and found.bound is None and found.verified_drop is None
    assert word in found.why
    assert found.combination.bits_per_pixel == (1 if target.kind == "bpp" else 16)


def test_target_of_error_takes_the_fewest_bits_below_it() -> None:
    cost = weighted_mse_cost({0: 1.0})
    found = search(LADDER, Target(kind="mse", value=0.1), cost)
    assert found.met
    assert found.combination.cost <= 0.1
    assert found.combination.bits_per_pixel == 13


def test_drops_rise_with_the_error_among_runs_of_one_distortion_only() -> None:
    """A weighted distortion's larger error may well cost less; it is no luck of the images."""
    measured = [("", 1.0, 0.02), ("", 2.0, 0.01), ("weighted", 2.5, 0.005)]
    drop_at = rising_drops(measured, dropped=(5.0, 0.1))
    assert drop_at(1.0, "") == drop_at(2.0, "") == pytest.approx(0.015)
    assert drop_at(2.5, "weighted") == pytest.approx(0.005)
    assert drop_at(2.5) == pytest.approx((0.02 + 0.01 + 0.005) / 3)
    assert drop_at(5.0) == drop_at(5.0, "weighted") == pytest.approx(0.1)
