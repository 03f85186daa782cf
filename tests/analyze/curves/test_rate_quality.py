"""Curves from what was measured, and the hull that BD takes of them."""

from __future__ import annotations

import math
from dataclasses import replace

from analyze.anchors.anchor_points import AnchorPoint
from analyze.anchors.anchor_rate_distortion import AnchorMeasurement
from analyze.curves.rate_quality import (
    MAP,
    PSNR,
    CurvePoint,
    anchor_level_curves,
    anchor_pyramid_curves,
    level_curve,
    pyramid_curve,
    rising_hull,
)
from analyze.facts.results import Combination, LevelFacts, LevelRow, Measurement
from extract.accuracy.bootstrap import Accuracy


def accuracy(value: float) -> Accuracy:
    return Accuracy(map=value, map_50=value, small=-1, medium=-1, large=-1)


def row(level: int, lmbda: float, rate: float | None) -> LevelRow:
    facts = LevelFacts(
        level=level, key=str(level), stride_px=4, num_channels=8, resolution_hw=(4, 4), share=0.5
    )
    measurement = rate and Measurement(
        run="run", lmbda=lmbda, num_parameters=1, mse=1 / rate, value_range=1, psnr_db=10 * rate,
        estimated_bpp=rate, real_bpp=2 * rate, payload_bpp=rate, bits_per_pixel=rate,
        encode_ms=1, decode_ms=1,
    )  # fmt: skip
    return LevelRow(facts=facts, measurement=measurement or None, alone=None)


def anchor_point(
    title: str, step: int, rate: float, value: float | None, ideal: bool
) -> AnchorPoint:
    measurement = AnchorMeasurement(
        anchor=title, point=f"step {step}", mse=float(step), value_range=1, psnr_db=40.0 - step,
        ideal_bpp=0.9 * rate if ideal else None, real_bpp=rate, payload_bpp=rate,
        bits_per_pixel=rate / 10, ideal_bits_per_pixel=0.09 * rate if ideal else None,
        encode_ms=1, decode_ms=1,
    )  # fmt: skip
    return AnchorPoint(
        anchor="name", title=title, point=f"step {step}", levels={0: measurement, 1: measurement},
        derived=(1,), bits_per_pixel=rate / 10,
        ideal_bits_per_pixel=0.09 * rate if ideal else None,
        accuracy=None if value is None else accuracy(value),
    )  # fmt: skip


def points_of(*pairs: tuple[float, float]) -> list[CurvePoint]:
    return [
        CurvePoint(label=str(place), bits_per_pixel=rate, quality=quality)
        for place, (rate, quality) in enumerate(pairs)
    ]


def test_level_curve_has_the_levels_own_runs_by_rising_rate() -> None:
    rows = [row(0, 0.1, 1.0), row(0, 0.01, 3.0), row(1, 0.1, 9.0), row(0, 0.03, 2.0)]
    curve = level_curve(rows, 0, "level 0")
    assert (curve.name, curve.metric) == ("level 0", PSNR)
    assert [point.label for point in curve.points] == ["lambda 0.1", "lambda 0.03", "lambda 0.01"]
    assert [point.bits_per_pixel for point in curve.points] == [1, 2, 3]
    assert [point.quality for point in curve.points] == [10, 20, 30]
    assert [point.bpp for point in curve.points] == [2, 4, 6]
    assert [point.mse for point in curve.points] == [1, 1 / 2, 1 / 3]


def test_level_without_a_run_has_an_empty_curve() -> None:
    assert level_curve([row(0, 0.1, None)], 0, "level 0").points == ()


def test_pyramid_curve_leaves_out_what_has_no_rate_or_no_map() -> None:
    def combination(name: str, rate: float | None, value: float | None) -> Combination:
        found = None if value is None else accuracy(value)
        return Combination(name=name, parts={}, bits_per_pixel=rate, accuracy=found)

    curve = pyramid_curve(
        [
            combination("b", 0.5, 0.5),
            combination("a", 0.1, 0.4),
            combination("cached levels", None, 0.5),
            combination("no boxes", 0.2, None),
            combination("nothing to find", 0.3, -1),
        ],
        "all levels",
    )
    assert curve.metric == MAP
    assert [(each.label, each.quality) for each in curve.points] == [("a", 0.4), ("b", 0.5)]


def test_anchor_has_a_curve_of_real_rates_and_one_of_ideal_ones_if_it_codes_symbols() -> None:
    points = [
        anchor_point("KLT", 1, 100, 0.5, True),
        anchor_point("KLT", 2, 50, 0.4, True),
        anchor_point("HEVC", 3, 60, 0.45, False),
    ]
    names = ["KLT", "HEVC", "KLT, ideal entropy coder"]
    level = anchor_level_curves(points, 1)
    assert [each.name for each in level] == names
    assert [point.quality for point in level[0].points] == [38, 39]
    assert [point.bpp for point in level[2].points] == [45, 90]
    pyramid = anchor_pyramid_curves(points)
    assert [each.name for each in pyramid] == names
    assert [point.quality for point in pyramid[0].points] == [0.4, 0.5]
    assert [point.bits_per_pixel for point in pyramid[2].points] == [4.5, 9]


def test_anchor_of_images_has_a_curve_of_map_alone() -> None:
    feature = anchor_point("KLT", 1, 100, 0.5, False)
    image = replace(
        anchor_point("image, AV1", 46, 4, 0.45, False), levels={}, derived=(), is_image=True
    )
    assert [each.name for each in anchor_level_curves([feature, image], 1)] == ["KLT"]
    pyramid = anchor_pyramid_curves([feature, image])
    assert [each.name for each in pyramid] == ["KLT", "image, AV1"]
    assert [point.bits_per_pixel for point in pyramid[1].points] == [0.4]


def test_anchor_without_detection_has_no_curve_of_map() -> None:
    assert anchor_pyramid_curves([anchor_point("KLT", 1, 100, None, True)]) == ()


def test_hull_is_what_no_other_point_beats() -> None:
    points = points_of((0.4, 3), (0.1, 1), (0.2, 1), (0.3, 0.5), (0.4, 2.5), (0.8, 3), (0.9, 4))
    assert [(each.bits_per_pixel, each.quality) for each in rising_hull(points)] == [
        (0.1, 1),
        (0.4, 3),
        (0.9, 4),
    ]


def test_hull_keeps_a_poor_but_rising_point() -> None:
    points = points_of((0.1, 1), (0.2, 1.1), (0.3, 3))
    assert rising_hull(points) == tuple(points)


def test_hull_has_only_finite_points_of_some_rate() -> None:
    bad = points_of((0.1, math.nan), (0.2, math.inf), (0.0, 1), (math.nan, 2), (math.inf, 3))
    assert rising_hull(bad) == ()
