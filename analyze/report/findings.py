"""Everything that one analysis found, from which the report is made; and its curves as series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.next_lambdas import Suggestion
from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.comparison import Comparison
from analyze.curves.rate_quality import Curve
from analyze.detection.sensitivity import Sensitivity
from analyze.facts.results import AnalysisResult, Combination
from analyze.measure.find_runs import TrainedRun
from analyze.measure.matrix import Matrix
from analyze.plots.curve_plots import PlotPoint, Series
from analyze.plots.picture_study import LevelPictures, WorstImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Parts that were not asked for, or could not be had, are empty or None."""

    result: AnalysisResult
    allocation: AllocationFinding | None = None
    sensitivity: Sensitivity | None = None
    anchors: tuple[AnchorPoint, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    matrix: Matrix | None = None
    suggestions: tuple[Suggestion, ...] = ()
    level_pictures: tuple[LevelPictures, ...] = ()
    worst: WorstImages | None = None
    trained: tuple[TrainedRun, ...] = ()
    """What training noted, where the split itself could not be analysed."""


def map_series(findings: Findings) -> list[Series]:
    """Return mAP against bits per pixel: planned pyramids, all sent and derived, anchors."""
    result = findings.result
    whole = [each for each in result.combinations if each.is_planned]
    series = []
    for learner in dict.fromkeys(each.learner for each in whole):
        own = [each for each in whole if each.learner == learner]
        sent = [each for each in own if "derived" not in each.parts.values()]
        derived = [each for each in own if "derived" in each.parts.values()]
        for name, combinations in (("all levels sent", sent), ("coarsest derived", derived)):
            title = f"{name}, {learner}" if learner else name
            points = tuple(_points(combinations))
            series.append(Series(name=title, points=points, style="ours"))
    anchors = [
        _of_curve(curve, "anchor")
        for each in findings.comparisons
        if each.what == "all levels"
        for curve in each.anchors
    ]
    return series + anchors


def level_series(findings: Findings) -> list[tuple[int, list[Series]]]:
    """Return level -> PSNR against bits per pixel, of our runs and of the anchors."""
    return [
        (
            int(each.what.removeprefix("level ")),
            [_of_curve(curve, "ours") for curve in each.ours]
            + [_of_curve(curve, "anchor") for curve in each.anchors],
        )
        for each in findings.comparisons
        if each.what.startswith("level ")
    ]


def _of_curve(curve: Curve, style: Literal["ours", "anchor"]) -> Series:
    points = (PlotPoint(x=point.bits_per_pixel, y=point.quality) for point in curve.points)
    return Series(name=curve.name, points=tuple(points), style=style)


def chosen_point(findings: Findings) -> PlotPoint | None:
    """Return the allocation's point, or None."""
    if findings.allocation is None:
        return None
    return next(iter(_points([findings.allocation.combination])), None)


def _points(combinations: Iterable[Combination]) -> Iterable[PlotPoint]:
    for each in combinations:
        if each.bits_per_pixel is not None and each.accuracy is not None:
            interval = each.accuracy.interval
            yield PlotPoint(
                x=each.bits_per_pixel,
                y=each.accuracy.map,
                low=interval.low if interval else None,
                high=interval.high if interval else None,
            )
