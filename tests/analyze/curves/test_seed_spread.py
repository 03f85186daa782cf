"""Runs that differ in the seed only are one point of a curve, with its spread."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analyze.curves.rate_quality import level_curve, pyramid_curve
from analyze.curves.seed_spread import Spread, spread_over_seeds
from analyze.facts.results import AnalysisResult, Combination, LevelRow
from tests.analyze.report.test_page import level_row
from tests.analyze.report.test_summary import accuracy


def row_of(
    seed: int | None, mse: float, psnr_db: float, bits: float, lmbda: float = 0.1
) -> LevelRow:
    row = level_row(2, lmbda)
    assert row.measurement is not None
    measurement = replace(
        row.measurement, mse=mse, psnr_db=psnr_db, bits_per_pixel=bits, run=f"run {seed} {lmbda}"
    )
    return replace(row, seed=seed, measurement=measurement, alone=accuracy(mse / 10))


ROWS = (
    row_of(0, 1.0, 30.0, 0.125),
    row_of(1, 2.0, 27.0, 0.375),
    row_of(None, 4.0, 20.0, 0.05, 1.0),
)


def pyramid(seed: int | None, bits: float, value: float) -> Combination:
    name = "all levels, lambda 0.1"
    return Combination(
        name=name if seed is None else f"{name}, seed {seed}", parts={}, bits_per_pixel=bits,
        accuracy=accuracy(value), seed=seed, over_seeds="" if seed is None else name,
        is_planned=True,
    )  # fmt: skip


def test_point_of_a_level_is_the_mean_of_its_seeds_and_a_single_run_itself() -> None:
    single, several = level_curve(ROWS, 2, "ours").points
    assert (single.quality, single.low, single.high) == (20.0, None, None)
    assert (several.quality, several.low, several.high) == (28.5, 27.0, 30.0)
    assert (several.bits_per_pixel, several.mse) == (0.25, 1.5)


def test_point_of_pyramids_is_the_mean_of_their_seeds() -> None:
    (point,) = pyramid_curve([pyramid(0, 0.1, 0.5), pyramid(1, 0.3, 0.25)], "ours").points
    assert (point.label, point.quality) == ("all levels, lambda 0.1", 0.375)
    assert (point.low, point.high) == (0.25, 0.5)


def test_spread_is_of_what_has_several_seeds_alone() -> None:
    result = AnalysisResult(
        dataset="scenes", split="val", detector="d", num_images=1, rows=ROWS, original=None,
        combinations=(
            pyramid(3, 0.125, 0.5), pyramid(7, 0.375, 0.25),
            replace(pyramid(None, 1.0, 1.0), name="other"),
        ),
    )  # fmt: skip
    level, whole = spread_over_seeds(result)
    assert (level.what, level.seeds) == ("level 2, lambda 0.1", (0, 1))
    assert level.mse == Spread(mean=1.5, low=1.0, high=2.0)
    assert level.map is not None and level.map.mean == pytest.approx(0.15)
    assert (whole.what, whole.seeds, whole.mse) == ("all levels, lambda 0.1", (3, 7), None)
    assert whole.bits_per_pixel == Spread(mean=0.25, low=0.125, high=0.375)
