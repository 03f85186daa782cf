"""Everything that one analysis found, from which the report is made; and its curves as series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.next_lambdas import Suggestion
from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.approach_figures import ApproachFigures
from analyze.curves.comparison import Comparison
from analyze.curves.rate_quality import Curve
from analyze.curves.seed_spread import Spread, alike, spread_of
from analyze.detection.sensitivity import Sensitivity
from analyze.facts.results import AnalysisResult, Combination
from analyze.fused.fused_study import FusedFinding
from analyze.measure.approach_cost import ApproachCost
from analyze.measure.find_runs import TrainedRun
from analyze.measure.matrix import Matrix
from analyze.plots.curve_plots import PlotPoint, Series
from analyze.plots.picture_study import LevelPictures, WorstImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Parts that were not asked for, or could not be had, are empty or None."""

    result: AnalysisResult
    allocation: AllocationFinding | None = None
    """Where there are runs that differ in the seed only: of the first seed."""
    other_seeds: tuple[AllocationFinding, ...] = ()
    """The allocations of all others."""
    sensitivity: Sensitivity | None = None
    anchors: tuple[AnchorPoint, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    approaches: tuple[ApproachFigures, ...] = ()
    """All four ways; empty where nothing makes a whole pyramid."""
    approach_costs: Mapping[str, ApproachCost] = field(default_factory=dict)
    """Way -> what its combination takes; those without one lack."""
    fused: tuple[FusedFinding, ...] = ()
    """Runs of all levels in one; their combinations are among the result's."""
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
    learners = dict.fromkeys((each.approach, each.learner) for each in whole)
    series = []
    for kind in learners:
        own = [each for each in whole if (each.approach, each.learner) == kind]
        sent = [each for each in own if "derived" not in each.parts.values()]
        derived = [each for each in own if "derived" in each.parts.values()]
        for name, combinations in (("all levels sent", sent), ("coarsest derived", derived)):
            told = _told_apart(*kind, learners)
            title = f"{name}, {told}" if told else name
            points = tuple(_points(combinations))
            series.append(Series(name=title, points=points, style="ours"))
    anchors = [
        _of_curve(curve, "anchor")
        for each in findings.comparisons
        if each.what == "all levels"
        for curve in each.anchors
    ]
    return series + anchors


def _told_apart(approach: str, learner: str, kinds: Collection[tuple[str, str]]) -> str:
    """Return what a curve of whole pyramids is called beside those of the other kinds."""
    if approach in learner or len({each for each, _ in kinds}) == 1:
        return learner
    is_only = sum(each == approach for each, _ in kinds) == 1
    return approach if is_only else f"{approach}, {learner}"


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
    points = (
        PlotPoint(x=point.bits_per_pixel, y=point.quality, low=point.low, high=point.high)
        for point in curve.points
    )
    return Series(name=curve.name, points=tuple(points), style=style)


def chosen_point(findings: Findings) -> PlotPoint | None:
    """Return the allocation's point, the cross-fitted one if there is one, or None.

    Of several seeds their mean.
    """
    if findings.allocation is None:
        return None
    chosen = [each.honest for each in (findings.allocation, *findings.other_seeds)]
    return next(iter(_points(chosen)), None)


def chosen_name(findings: Findings) -> str:
    """Return what a plot calls the allocation's point."""
    found = findings.allocation
    return "allocated, cross-fitted" if found is not None and found.cross_fit else "allocated"


def how_chosen(found: AllocationFinding) -> str:
    """Say which images chose an allocation, which were measured, and what that flatters.

    One sentence, without its full stop.
    """
    chosen_by = found.combination.chosen_by
    assert chosen_by is not None, "an allocation is chosen"
    fitted, seed = found.cross_fit, found.combination.seed
    name = "the allocation" if seed is None else f"the allocation of seed {seed}"
    if fitted is not None:
        text = (
            f"{name} is cross-fitted over {len(fitted.folds)} folds of "
            f"{chosen_by.num_measured} images: {_figures(fitted.combination)}"
        )
        if fitted.optimism is None:
            return text
        return (
            f"{text}; chosen and measured on the same images it has {_figures(found.combination)}, "
            f"an optimism of {fitted.optimism:.4f}"
        )
    if chosen_by.is_same:
        flattered = "which flatters it: --cross-fit 5 measures it on images that did not choose"
        return f"{name} was {chosen_by.text}, {flattered}"
    text = (
        f"{name} was chosen on {chosen_by.split} ({chosen_by.num_images} images), measured "
        f"on {chosen_by.measured_on} ({chosen_by.num_measured} images)"
    )
    accuracy, drop = found.combination.accuracy, found.allocation.verified_drop
    if accuracy is None or accuracy.drop is None or drop is None:
        return text
    return f"{text}: a mAP drop of {accuracy.drop:.4f}, where the images that chose lose {drop:.4f}"


def over_seeds(findings: Findings) -> str | None:
    """Say what the allocations of several seeds reach; None where there is one."""
    if findings.allocation is None or not findings.other_seeds:
        return None
    chosen = [each.honest for each in (findings.allocation, *findings.other_seeds)]
    spread = spread_of(chosen)
    bits = f"{_in_words(spread.bits_per_pixel, '.4g')} bits/px"
    return (
        f"{spread.what}, over the seeds {', '.join(map(str, spread.seeds))}, mean and smallest to "
        "largest: "
        + (bits if spread.map is None else f"mAP {_in_words(spread.map, '.4f')} at {bits}")
    )


def _in_words(spread: Spread, style: str) -> str:
    return f"{spread.mean:{style}} ({spread.low:{style}}..{spread.high:{style}})"


def _figures(combination: Combination) -> str:
    """Return mAP, with its interval, and bits of a combination."""
    bits = f"{combination.bits_per_pixel:.4g} bits/px"
    accuracy = combination.accuracy
    if accuracy is None:
        return bits
    interval = accuracy.interval
    ends = f" ({interval.low:.3f}..{interval.high:.3f})" if interval else ""
    return f"mAP {accuracy.map:.4f}{ends} at {bits}"


def _points(combinations: Iterable[Combination]) -> Iterable[PlotPoint]:
    for first, *others in alike(combinations):
        if first.bits_per_pixel is None or first.accuracy is None:
            continue
        if others and (spread := spread_of([first, *others])).map is not None:
            figure = spread.map
            yield PlotPoint(
                x=spread.bits_per_pixel.mean, y=figure.mean, low=figure.low, high=figure.high
            )
            continue
        interval = first.accuracy.interval
        yield PlotPoint(
            x=first.bits_per_pixel,
            y=first.accuracy.map,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
        )
