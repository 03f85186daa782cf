"""Tables of anchors, of Bjøntegaard deltas, and of specific against random models."""

from __future__ import annotations

from collections.abc import Sequence

from analyze.anchors.anchor_study import AnchorPoint
from analyze.curves.bjontegaard import BdResult
from analyze.curves.comparison import Comparison
from analyze.measure.matrix import Matrix
from analyze.report.finding_tables import plain_table
from analyze.report.tables import Table, Value


def anchor_table(points: Sequence[AnchorPoint]) -> Table:
    """Return a line per anchor and rate point, over all levels that are sent."""
    lines: list[tuple[Value, ...]] = [
        (
            point.title, point.point, point.bits_per_pixel, point.ideal_bits_per_pixel,
            point.accuracy.map if point.accuracy else None,
        )
        for point in points
    ]  # fmt: skip
    return plain_table(
        ("anchor", "point", "bits/px", "ideal bits/px", "mAP"),
        ("anchor", "point", "bits_per_pixel", "ideal_bits_per_pixel", "map"),
        ("{}", "{}", "{:.4g}", "{:.4g}", "{:.4f}"),
        lines,
    )


def bd_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a line per thing and anchor."""
    lines: list[tuple[Value, ...]] = [
        (
            _title(each, delta), delta.metric, delta.bd_rate_percent, delta.bd_quality,
            delta.note,
        )
        for each in comparisons
        for delta in each.deltas
    ]  # fmt: skip
    return plain_table(
        ("ours against", "quality", "BD-rate %", "BD quality", "note"),
        ("ours_against", "quality", "bd_rate_percent", "bd_quality", "note"),
        ("{}", "{}", "{:+.1f}", "{:+.4g}", "{}"),
        lines,
    )


def _title(comparison: Comparison, delta: BdResult) -> str:
    which = f" ({delta.test})" if len(comparison.ours) > 1 else ""
    return f"{comparison.what}{which}: {delta.anchor}"


def matrix_table(matrix: Matrix) -> Table:
    """Return a line per model, its loss on each level."""
    levels = [f"level {level}" for level in matrix.levels]
    lines: list[tuple[Value, ...]] = [
        (model.name, *(entry.loss for entry in entries))
        for model, entries in zip(matrix.models, matrix.entries, strict=True)
    ]
    return plain_table(
        ("trained for", *levels),
        ("trained_for", *(name.replace(" ", "_") for name in levels)),
        ("{}", *("{:.4g}" for _ in levels)),
        lines,
    )


def cost_table(matrix: Matrix) -> Table:
    """Return a line for five models and one for the model of random levels, where they are."""
    costs = {"one model a level": matrix.specific, "one model for all": matrix.random}
    lines: list[tuple[Value, ...]] = [
        (
            name, cost.models, cost.parameters, cost.storage_bytes / 1e6,
            cost.encoder_macs_per_image / 1e9, cost.decoder_macs_per_image / 1e9,
        )
        for name, cost in costs.items()
        if cost is not None
    ]  # fmt: skip
    return plain_table(
        ("", "models", "parameters", "MB", "enc GMAC/image", "dec GMAC/image"),
        ("name", "models", "parameters", "megabytes", "encoder_gmac", "decoder_gmac"),
        ("{}", "{}", "{:,}", "{:.1f}", "{:.1f}", "{:.1f}"),
        lines,
    )
