"""What others need for the mAP of ours: other ways to code pyramids, anchors, and images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.approach_figures import approach_curves
from analyze.curves.comparison import BY_APPROACH
from analyze.facts.approaches import OURS
from analyze.facts.results import AnalysisResult, Combination
from analyze.report.finding_tables import plain_table
from analyze.report.findings import Findings
from analyze.report.tables import Table, Value


def sent_whole(result: AnalysisResult) -> list[Combination]:
    """Return the pyramids of which every level is sent, or where there are none with derived ones.

    They are ours where there are any, and not those of one model for all levels.
    """
    whole = [each for each in result.combinations if each.is_planned]
    own = [each for each in whole if each.approach in ("", *OURS)] or whole
    return [each for each in own if "derived" not in each.parts.values()] or own


def ours(findings: Findings) -> Combination | None:
    """Return what is compared with anchors: the allocation, else the pyramid of the best mAP."""
    if findings.allocation is not None:
        return findings.allocation.honest
    return max(
        sent_whole(findings.result),
        key=lambda each: each.accuracy.map if each.accuracy else 0.0,
        default=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalPoint:
    """One way to send all levels, or the images, that was measured."""

    title: str
    point: str
    bits_per_pixel: float
    map: float


def anchor_rivals(points: Iterable[AnchorPoint]) -> list[RivalPoint]:
    """Return the points of anchors of which the mAP is known."""
    return [
        RivalPoint(
            title=each.title, point=each.point, bits_per_pixel=each.bits_per_pixel,
            map=each.accuracy.map,
        )
        for each in points
        if each.accuracy is not None
    ]  # fmt: skip


def approach_rivals(findings: Findings, ours: Combination) -> list[RivalPoint]:
    """Return whole pyramids, by the ways to code them; not the way of which ours is one."""
    rivals = [
        RivalPoint(
            title=name, point=point.label, bits_per_pixel=point.bits_per_pixel, map=point.quality
        )
        for name, curve in approach_curves(findings.result.combinations).items()
        for point in curve.points
    ]
    is_one_of_them = findings.allocation is None
    return [each for each in rivals if not (is_one_of_them and each.title == ours.approach)]


def cheapest_rival(points: Iterable[RivalPoint], ours: Combination) -> RivalPoint | None:
    """Return the point of the fewest bits that detects no worse than ours, if any."""
    if ours.accuracy is None:
        return None
    least = ours.accuracy.map
    rivals = [each for each in points if each.map >= least]
    return min(rivals, key=lambda each: each.bits_per_pixel, default=None)


def equal_map_table(findings: Findings) -> Table | None:
    """Return a line for ours, each other way and each anchor: its fewest bits for our mAP at least.

    What does not reach it follows with the best that it has. None without ours, or where there is
    neither another way to code pyramids nor an anchor.
    """
    mine = ours(findings)
    if mine is None or mine.accuracy is None or mine.bits_per_pixel is None:
        return None
    anchors = anchor_rivals(findings.anchors)
    ways = approach_rivals(findings, mine)
    if not anchors and len(approach_curves(findings.result.combinations)) < 2:
        return None
    by_title: dict[str, list[RivalPoint]] = {}
    for point in (*ways, *anchors):
        by_title.setdefault(point.title, []).append(point)
    reached: list[tuple[float, tuple[Value, ...]]] = []
    below: list[tuple[Value, ...]] = []
    for title, points in by_title.items():
        bd_rate = _bd_rate(findings, title)
        if (rival := cheapest_rival(points, mine)) is not None:
            bits = rival.bits_per_pixel
            times = bits / mine.bits_per_pixel if mine.bits_per_pixel else None
            reached.append((bits, (title, rival.point, bits, rival.map, times, bd_rate)))
        else:
            best = max(points, key=lambda each: each.map)
            name = f"{best.point}, its best, is below"
            below.append((title, name, best.bits_per_pixel, best.map, None, bd_rate))
    name = ", ".join(filter(None, ("ours", our_approach(findings))))
    first = (name, mine.name, mine.bits_per_pixel, mine.accuracy.map, 1.0, None)
    return plain_table(
        ("fewest bits for the mAP of ours", "point", "bits/px", "mAP", "times ours", "BD-rate %"),
        ("sent", "point", "bits_per_pixel", "map", "times_ours", "bd_rate_percent"),
        ("{}", "{}", "{:.4g}", "{:.4f}", "{:.1f}", "{:+.1f}"),
        [first, *(line for _, line in sorted(reached, key=lambda each: each[0])), *below],
    )


def our_approach(findings: Findings) -> str:
    """Return how ours is coded; empty where that is not known."""
    chosen = findings.allocation.combination if findings.allocation else ours(findings)
    return "" if chosen is None else chosen.approach


def _bd_rate(findings: Findings, title: str) -> float | None:
    """Return the BD-rate by mAP of the first of our curves, in percent of the rival's bits.

    Where pyramids are coded in several ways, our curve is the one of all of ours.
    """
    for what in (BY_APPROACH, "all levels"):
        for each in findings.comparisons:
            if each.what == what:
                for delta in each.deltas:
                    if delta.anchor == title and delta.test == each.ours[0].name:
                        return delta.bd_rate_percent
    return None
