"""What rivals need for the mAP of ours: anchors of features and images, codecs of all levels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analyze.anchors.anchor_points import AnchorPoint
from analyze.facts.results import AnalysisResult, Combination
from analyze.fused.fused_study import FusedFinding
from analyze.report.finding_tables import plain_table
from analyze.report.findings import Findings
from analyze.report.page import PageSection, Paragraph, TableBlock
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


def fused_section(findings: Findings) -> PageSection | None:
    """Return what runs of all levels in one have reached, and cost; None without any."""
    if not findings.fused:
        return None
    return PageSection(
        title="All levels in one",
        blocks=(
            Paragraph(
                text="Runs of train-level --level fused: one latent for all levels that are coded, "
                "after L-MSFC (arXiv:2306.16670), in the layers of the others. Bits are of whole "
                "files, MSE of each level from them; multiply-accumulates are per position of the "
                "finest level, times of all levels together."
            ),
            TableBlock(name="fused", table=fused_table(findings.fused)),
        ),
    )


def fused_table(findings: Sequence[FusedFinding]) -> Table:
    """Return a line per run of all levels in one: bits, errors level by level, costs."""
    levels = sorted({level for each in findings for level in each.levels})
    lines: list[tuple[Value, ...]] = [
        (
            each.title, each.lmbda, each.seed, each.combination.bits_per_pixel,
            each.combination.accuracy.map if each.combination.accuracy else None,
            *(each.levels[level].mse if level in each.levels else None for level in levels),
            each.cost.parameters, each.cost.storage_bytes / 1e6,
            each.cost.encoder_macs_per_position / 1e6, each.cost.decoder_macs_per_position / 1e6,
            *_times(each), each.training_s, each.run,
        )
        for each in findings
    ]  # fmt: skip
    return plain_table(
        (
            "by", "lambda", "seed", "bits/px", "mAP", *(f"MSE {level}" for level in levels),
            "parameters", "MB", "enc MMAC/position", "dec MMAC/position", "enc ms", "dec ms",
            "trained s", "run",
        ),
        (
            "by", "lambda", "seed", "bits_per_pixel", "map",
            *(f"mse_level_{level}" for level in levels), "parameters", "megabytes",
            "encoder_mmac_per_position", "decoder_mmac_per_position", "encode_ms", "decode_ms",
            "training_s", "run",
        ),
        (
            "{}", "{:.3g}", "{}", "{:.4g}", "{:.4f}", *("{:.4g}" for _ in levels), "{:,}",
            "{:.1f}", "{:.3f}", "{:.3f}", "{:.1f}", "{:.1f}", "{:.0f}", "{}",
        ),
        lines,
    )  # fmt: skip


def _times(finding: FusedFinding) -> tuple[float, float]:
    of_all = next(iter(finding.levels.values()))
    return of_all.encode_ms, of_all.decode_ms
