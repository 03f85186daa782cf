"""Four ways to code a pyramid: bits at the mAP that all reach, loss at the lambda of most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analyze.curves.approach_figures import ApproachFigures, approach_curves, approach_figures
from analyze.curves.comparison import BY_APPROACH, compare
from analyze.facts.approaches import FUSED, OURS, RANDOM_LEVEL, SPECIFIC, approach_of
from analyze.facts.candidates import COARSE_TO_FINE
from analyze.facts.results import AnalysisResult, Combination
from tests.analyze.facts.test_contextual_runs import COARSE, MIDDLE
from tests.analyze.report.test_summary import findings, pyramid


def of_way(
    approach: str, lmbda: float, bits: float, value: float, *, mse: float = 1.0
) -> Combination:
    one = pyramid(lmbda, bits, value, derived=True)
    return replace(
        one, name=f"{one.name}, {approach}", approach=approach, mse=mse, learner=approach
    )


def result_of(*combinations: Combination) -> AnalysisResult:
    return replace(findings(*combinations).result, num_pixels=1000, num_positions=100)


WAYS = (
    of_way(SPECIFIC, 0.1, 0.4, 0.6, mse=2.0), of_way(SPECIFIC, 1, 0.1, 0.4),
    of_way(RANDOM_LEVEL, 0.1, 0.8, 0.55, mse=3.0),
    of_way(COARSE_TO_FINE, 0.1, 0.2, 0.65, mse=1.5), of_way(COARSE_TO_FINE, 1, 0.05, 0.45),
)  # fmt: skip


def figures_of(*combinations: Combination) -> dict[str, ApproachFigures]:
    return {each.approach: each for each in approach_figures(result_of(*combinations))}


def test_bits_are_at_the_highest_map_that_every_way_with_runs_reaches() -> None:
    found = figures_of(*WAYS)
    assert list(found) == [SPECIFIC, RANDOM_LEVEL, FUSED, COARSE_TO_FINE]
    assert {each.equal_map for each in found.values()} == {0.55}
    # Three quarters of the way from 0.4 to 0.6, and half of that from 0.45 to 0.65, in log2(bits).
    assert found[SPECIFIC].bits_per_pixel == pytest.approx(0.1 * 4**0.75)
    assert found[COARSE_TO_FINE].bits_per_pixel == pytest.approx(0.1)
    assert [found[each].is_interpolated for each in (SPECIFIC, RANDOM_LEVEL)] == [True, False]
    assert found[RANDOM_LEVEL].bits_per_pixel == 0.8
    assert found[COARSE_TO_FINE].combination == WAYS[3]
    assert (found[FUSED].bits_per_pixel, found[FUSED].combination) == (None, None)
    assert found[FUSED].train == "train-level --level fused"


def test_nothing_is_extrapolated_below_the_least_map_of_a_way() -> None:
    found = figures_of(WAYS[0], of_way(RANDOM_LEVEL, 0.1, 0.3, 0.5))
    assert (found[SPECIFIC].bits_per_pixel, found[SPECIFIC].map) == (0.4, 0.6)
    assert found[SPECIFIC].equal_map == 0.5 and not found[SPECIFIC].is_interpolated


def test_loss_is_of_the_lambda_that_most_ways_have() -> None:
    found = figures_of(*WAYS)
    assert {each.lmbda for each in found.values()} == {0.1}
    assert found[SPECIFIC].bpp == pytest.approx(4.0)
    assert found[SPECIFIC].loss == pytest.approx(2.0 + 0.1 * 4.0)
    assert found[FUSED].loss is None


def test_without_detection_there_is_the_loss_alone_and_without_pyramids_nothing() -> None:
    blind = [replace(each, accuracy=None) for each in WAYS]
    found = figures_of(*blind)[SPECIFIC]
    assert (found.bits_per_pixel, found.equal_map, found.combination) == (None, None, blind[0])
    assert approach_figures(result_of()) == ()


def test_pyramids_with_derived_levels_stand_for_a_way_that_has_some() -> None:
    sent = replace(WAYS[0], parts=dict.fromkeys(range(5), "run"), bits_per_pixel=0.5)
    (curve,) = approach_curves([sent, WAYS[0]]).values()
    assert [point.bits_per_pixel for point in curve.points] == [0.4]


def test_coarse_to_fine_is_compared_with_the_other_ways() -> None:
    (found,) = (each for each in compare(result_of(*WAYS), ()) if each.what == BY_APPROACH)
    assert [each.name for each in found.ours] == [COARSE_TO_FINE]
    deltas = {each.anchor: each.bd_rate_percent for each in found.deltas}
    assert list(deltas) == [SPECIFIC, RANDOM_LEVEL]
    assert (deltas[SPECIFIC] or 0) < -50
    assert not any(each.what == BY_APPROACH for each in compare(result_of(*WAYS[:2]), ()))
    (all_levels,) = (each for each in compare(result_of(*WAYS), ()) if each.what == "all levels")
    assert [each.name for each in all_levels.ours] == [
        "ours, level-specific", "random level", "ours, coarse to fine",
    ]  # fmt: skip


def test_way_is_told_by_the_runs() -> None:
    assert approach_of(COARSE) == SPECIFIC
    assert approach_of([*COARSE, *MIDDLE]) == COARSE_TO_FINE
    assert approach_of([replace(COARSE[0], num_levels=5)]) == RANDOM_LEVEL
    assert approach_of([]) == ""
    assert OURS == (SPECIFIC, COARSE_TO_FINE)
