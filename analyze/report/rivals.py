"""What anchors need for the mAP of ours: of features, and of images sent instead of them."""

from __future__ import annotations

from collections.abc import Iterable

from analyze.anchors.anchor_points import AnchorPoint
from analyze.facts.results import AnalysisResult, Combination
from analyze.report.finding_tables import plain_table
from analyze.report.findings import Findings
from analyze.report.tables import Table, Value


def sent_whole(result: AnalysisResult) -> list[Combination]:
    """Return the pyramids of which every level is sent."""
    return [
        each
        for each in result.combinations
        if each.is_planned and "derived" not in each.parts.values()
    ]


def ours(findings: Findings) -> Combination | None:
    """Return what is compared with anchors: the allocation, else the pyramid of the best mAP."""
    if findings.allocation is not None:
        return findings.allocation.honest
    return max(
        sent_whole(findings.result),
        key=lambda each: each.accuracy.map if each.accuracy else 0.0,
        default=None,
    )


def cheapest_rival(points: Iterable[AnchorPoint], ours: Combination) -> AnchorPoint | None:
    """Return the point of the fewest bits that detects no worse than ours, if any."""
    if ours.accuracy is None:
        return None
    least = ours.accuracy.map
    rivals = [each for each in points if each.accuracy and each.accuracy.map >= least]
    return min(rivals, key=lambda each: each.bits_per_pixel, default=None)


def equal_map_table(findings: Findings) -> Table | None:
    """Return a line for ours and for each anchor: its fewest bits for at least the mAP of ours.

    Anchors that do not reach it follow with the best that they have. None without either.
    """
    mine = ours(findings)
    if mine is None or mine.accuracy is None or mine.bits_per_pixel is None:
        return None
    by_title: dict[str, list[AnchorPoint]] = {}
    for point in findings.anchors:
        if point.accuracy is not None:
            by_title.setdefault(point.title, []).append(point)
    if not by_title:
        return None
    reached: list[tuple[float, tuple[Value, ...]]] = []
    below: list[tuple[Value, ...]] = []
    for title, points in by_title.items():
        bd_rate = _bd_rate(findings, title)
        if (rival := cheapest_rival(points, mine)) is not None and rival.accuracy is not None:
            bits = rival.bits_per_pixel
            times = bits / mine.bits_per_pixel if mine.bits_per_pixel else None
            line = (title, rival.point, bits, rival.accuracy.map, times, bd_rate)
            reached.append((bits, line))
        else:
            best = max(points, key=lambda each: each.accuracy.map if each.accuracy else 0.0)
            figure = best.accuracy.map if best.accuracy else None
            name = f"{best.point}, its best, is below"
            below.append((title, name, best.bits_per_pixel, figure, None, bd_rate))
    first = ("ours", mine.name, mine.bits_per_pixel, mine.accuracy.map, 1.0, None)
    return plain_table(
        ("fewest bits for the mAP of ours", "point", "bits/px", "mAP", "times ours", "BD-rate %"),
        ("sent", "point", "bits_per_pixel", "map", "times_ours", "bd_rate_percent"),
        ("{}", "{}", "{:.4g}", "{:.4f}", "{:.1f}", "{:+.1f}"),
        [first, *(line for _, line in sorted(reached, key=lambda each: each[0])), *below],
    )


def _bd_rate(findings: Findings, title: str) -> float | None:
    """Return the BD-rate by mAP of the first of our curves, in percent of the anchor's bits."""
    for each in findings.comparisons:
        if each.what == "all levels":
            for delta in each.deltas:
                if delta.anchor == title and delta.test == each.ours[0].name:
                    return delta.bd_rate_percent
    return None
