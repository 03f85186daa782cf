"""The curves of an analysis, as series of points for the plots."""

from __future__ import annotations

from collections.abc import Iterable

from analyze.curve_plots import PlotPoint, Series
from analyze.findings import Findings
from analyze.results import AnalysisResult, Combination
from analyze.tables import measured


def map_series(result: AnalysisResult) -> list[Series]:
    """Return mAP against bits per pixel: pyramids of one lambda, with all levels and derived."""
    whole = [each for each in result.combinations if each.lmbda is not None]
    sent = [each for each in whole if "derived" not in each.parts.values()]
    derived = [each for each in whole if "derived" in each.parts.values()]
    series = [("all levels sent", sent), ("coarsest derived", derived)]
    return [
        Series(name=name, points=tuple(_points(combinations)), style="ours")
        for name, combinations in series
    ]


def level_series(result: AnalysisResult) -> list[tuple[int, list[Series]]]:
    """Return level -> PSNR against bits per pixel over its runs."""
    rows = measured(result)
    return [
        (
            level,
            [
                Series(
                    name="ours",
                    points=tuple(
                        PlotPoint(x=run.bits_per_pixel, y=run.psnr_db)
                        for row, run in rows
                        if row.facts.level == level
                    ),
                    style="ours",
                )
            ],
        )
        for level in sorted({row.facts.level for row, _ in rows})
    ]


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
