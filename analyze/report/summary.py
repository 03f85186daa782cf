"""What an analysis found in about ten lines: what the command prints. The report has the rest."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from analyze.curves.seed_spread import alike
from analyze.facts.results import AnalysisResult, Combination
from analyze.report.finding_tables import plain_table, trained_table
from analyze.report.findings import Findings, how_chosen, over_seeds
from analyze.report.input_rates import pixel_ratio, with_input_rates
from analyze.report.rivals import (
    RivalPoint,
    anchor_rivals,
    approach_rivals,
    cheapest_rival,
    our_approach,
    ours,
    sent_whole,
)
from analyze.report.tables import Table, Value, level_table, plain_text

_MOST_PYRAMIDS = 6


def summary(findings: Findings) -> str:
    """Return the original's mAP, whole pyramids, the allocation and the cheapest rivals of its mAP.

    Of a split that could not be analysed: what training noted. Of levels that make no whole
    pyramid: a line for each of them. Where something is missing, the first line says what to type.
    """
    result = findings.result
    step = f"next: {result.next_step}\n" if result.next_step else ""
    if findings.trained:
        return step + plain_text(trained_table(findings.trained))
    head = step + (
        f"{result.dataset} {result.split}: {result.num_images} images, detector {result.detector}"
    )
    pyramids, found = sent_whole(result), findings.allocation
    if not pyramids and found is None:
        levels = with_input_rates(level_table(result), pixel_ratio(result))
        return f"{head}\n{plain_text(levels)}"
    groups = alike(pyramids)
    shown = _some_of(groups)
    lines = [_original(result), *map(_line, shown)]
    if len(shown) < len(groups):
        lines.append((f"{len(groups) - len(shown)} more lambdas in the report", *[None] * 3))
    if found is not None:
        compared = None if found.per_image is None else found.per_image.alike
        lines += [_line([each]) for each in found.combinations if each is not compared]
    mine = ours(findings)
    assert mine is not None, "there are pyramids, or an allocation"
    own = our_approach(findings)
    ways = [each for each in approach_rivals(findings, mine) if each.title != own]
    anchors, images = (
        anchor_rivals(each for each in findings.anchors if each.is_image == is_image)
        for is_image in (False, True)
    )
    for what, points in (("other way", ways), ("anchor", anchors), ("image", images)):
        if (rival := cheapest_rival(points, mine)) is not None:
            lines.append(_rival_line(what, rival, mine, result))
    table = f"{head}\n{plain_text(with_input_rates(_table(lines), pixel_ratio(result)))}"
    said = [] if found is None else [how_chosen(found)]
    if (seeds := over_seeds(findings)) is not None:
        said.append(seeds)
    return "\n".join([table, *said])


def _some_of(pyramids: list[list[Combination]]) -> list[list[Combination]]:
    """Return so many of them that they can be read, evenly spread."""
    if len(pyramids) <= _MOST_PYRAMIDS:
        return pyramids
    step = (len(pyramids) - 1) / (_MOST_PYRAMIDS - 1)
    return [pyramids[round(step * number)] for number in range(_MOST_PYRAMIDS)]


def _rival_line(
    what: str, rival: RivalPoint, ours: Combination, result: AnalysisResult
) -> tuple[Value, ...]:
    name = f"cheapest {what} of that mAP: {rival.title.removeprefix('image, ')}, {rival.point}"
    if ours.bits_per_pixel:
        name += f" ({rival.bits_per_pixel / ours.bits_per_pixel:.1f} times the bits)"
    drop = result.original.map - rival.map if result.original else None
    return name, rival.bits_per_pixel, rival.map, drop


def _original(result: AnalysisResult) -> tuple[Value, ...]:
    return "original features", None, result.original.map if result.original else None, None


def _line(alike: Sequence[Combination]) -> tuple[Value, ...]:
    """Return the line of one combination, or of the mean of those of several seeds."""
    first, *others = alike
    accuracies = [each.accuracy for each in alike if each.accuracy]
    drops = [each.drop for each in accuracies if each.drop is not None]
    return (
        f"{first.over_seeds}, mean of {len(alike)} seeds" if others else first.name,
        fmean(each.bits_per_pixel or 0.0 for each in alike) if others else first.bits_per_pixel,
        fmean(each.map for each in accuracies) if accuracies else None,
        fmean(drops) if drops else None,
    )


def _table(lines: list[tuple[Value, ...]]) -> Table:
    return plain_table(
        ("features", "bits/px", "mAP", "drop"),
        ("features", "bits_per_pixel", "map", "drop"),
        ("{}", "{:.4g}", "{:.4f}", "{:.4f}"),
        lines,
    )
