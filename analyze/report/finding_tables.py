"""Tables of what an analysis found beyond levels and detection, comparisons among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.cross_fit import CrossFit
from analyze.allocation.per_image_allocation import PerImageFinding, WayTaken
from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.bjontegaard import BdResult
from analyze.curves.comparison import Comparison
from analyze.curves.seed_spread import SeedSpread
from analyze.detection.sensitivity import Sensitivity
from analyze.measure.find_runs import TrainedRun
from analyze.measure.matrix import Matrix
from analyze.plots.picture_study import WorstImages
from analyze.report.tables import Table, Value, shown

_SHOWN_IMAGES = 10


def allocation_table(found: AllocationFinding) -> Table:
    """Return a line per level, and their sum."""
    lines: list[tuple[Value, ...]] = [
        (
            f"level {option.level}", option.name, option.bits_per_pixel, option.mse,
            option.map_drop,
        )
        for option in found.allocation.combination.options
    ]  # fmt: skip
    shared = found.shared_bits_per_pixel
    lines.append(("files", "headers that the levels share", shared, None, None))
    accuracy = found.combination.accuracy
    lines.append(
        (
            "all", found.combination.name, found.combination.bits_per_pixel, None,
            accuracy.drop if accuracy else None,
        )
    )  # fmt: skip
    if (fitted := found.cross_fit) is not None:
        accuracy = fitted.combination.accuracy
        lines.append(
            (
                "all", fitted.combination.name, fitted.combination.bits_per_pixel, fitted.mse,
                accuracy.drop if accuracy else None,
            )
        )  # fmt: skip
    return plain_table(
        ("", "sent as", "bits/px", "MSE", "mAP drop"),
        ("level", "sent_as", "bits_per_pixel", "mse", "map_drop"),
        ("{}", "{}", "{:.4g}", "{:.4g}", "{:.4f}"),
        lines,
    )


def per_image_table(found: PerImageFinding) -> Table:
    """Return one choice for all images at a slope, and each image's own."""
    rows = [(found.alike, found.alike_mse), (found.combination, found.mse)]
    lines: list[tuple[Value, ...]] = [
        (each.name, each.bits_per_pixel, mse)
        + ((accuracy.map, accuracy.drop) if (accuracy := each.accuracy) else (None, None))
        for each, mse in rows
    ]
    return plain_table(
        ("", "bits/px", "MSE", "mAP", "drop"),
        ("chosen", "bits_per_pixel", "mse", "map", "map_drop"),
        ("{}", "{:.4g}", "{:.4g}", "{:.4f}", "{:.4f}"),
        lines,
    )


def taken_table(taken: Sequence[WayTaken]) -> Table:
    """Return how many images send each level in which way."""
    return plain_table(
        ("level", "sent as", "images"),
        ("level", "sent_as", "images"),
        ("{}", "{}", "{}"),
        [(each.level, each.sent_as, each.num_images) for each in taken],
    )


def fold_table(fitted: CrossFit) -> Table:
    """Return a line per fold: what all other images chose, and what it is on both."""
    lines: list[tuple[Value, ...]] = [
        (
            number, len(each.images),
            "; ".join(f"{option.level}: {option.name}" for option in chosen.options),
            "yes" if each.allocation.met else "no", each.allocation.verified_drop,
            chosen.bits_per_pixel, each.bits_per_pixel, each.mse,
        )
        for number, each in enumerate(fitted.folds, start=1)
        for chosen in [each.allocation.combination]
    ]  # fmt: skip
    return plain_table(
        (
            "fold", "images", "the others' choice", "met", "drop", "levels' bits/px",
            "held out bits/px", "held out MSE",
        ),
        (
            "fold", "images", "choice", "met", "drop_of_choosing", "levels_bits_per_pixel",
            "bits_per_pixel", "mse",
        ),
        ("{}", "{}", "{}", "{}", "{:.4f}", "{:.4g}", "{:.4g}", "{:.4g}"),
        lines,
    )  # fmt: skip


def seed_table(spreads: Sequence[SeedSpread]) -> Table:
    """Return a line for all that was trained with several seeds: mean, smallest, largest."""
    lines: list[tuple[Value, ...]] = [
        (
            each.what, " ".join(map(str, each.seeds)),
            *(
                value
                for figure in (each.bits_per_pixel, each.mse, each.map)
                for value in ((figure.mean, figure.low, figure.high) if figure else [None] * 3)
            ),
        )
        for each in spreads
    ]  # fmt: skip
    figures = {"bits_per_pixel": ("bits/px", "{:.4g}"), "mse": ("MSE", "{:.4g}"),
               "map": ("mAP", "{:.4f}")}  # fmt: skip
    return plain_table(
        ("", "seeds", *(f"{title}{end}" for title, _ in figures.values()
                        for end in ("", " min", " max"))),
        ("what", "seeds", *(f"{name}{end}" for name in figures
                            for end in ("_mean", "_min", "_max"))),
        ("{}", "{}", *(style for _, style in figures.values() for _ in range(3))),
        lines,
    )  # fmt: skip


def trained_table(runs: Sequence[TrainedRun]) -> Table:
    """Return a line per run: its best epoch."""
    return plain_table(
        ("level", "lambda", "by", "epoch", "loss", "MSE", "est BPP", "run"),
        ("level", "lambda", "learner", "epoch", "loss", "mse", "estimated_bpp", "run"),
        ("{}", "{:.3g}", "{}", "{}", "{:.4g}", "{:.4g}", "{:.4g}", "{}"),
        [
            (run.level, run.lmbda, run.learner, run.epoch, run.loss, run.mse, run.bpp, run.run)
            for run in runs
        ],
    )


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """Return a line per level and error."""
    lines: list[tuple[Value, ...]] = [
        (f"level {level}", mse, figure, points[0][1] - figure)
        for level, points in sorted(sensitivity.levels.items())
        for mse, figure in points
    ]
    return plain_table(
        ("", "noise MSE", "mAP", "drop"),
        ("level", "noise_mse", "map", "drop"),
        ("{}", "{:.4g}", "{:.4f}", "{:.4f}"),
        lines,
    )


def worst_table(worst: WorstImages) -> Table:
    """Return a line per image, the most hurt first; people are shown the first few of them."""
    lines: list[tuple[Value, ...]] = [
        (
            image.file.rpartition("/")[2], image.ap_before, image.ap_after, image.loss,
            len(image.truth.xyxy), len(image.before.xyxy), len(image.after.xyxy),
        )
        for image in worst.images
    ]  # fmt: skip
    table = plain_table(
        ("image", "AP before", "AP after", "loss", "true boxes", "boxes before", "boxes after"),
        ("image", "ap_before", "ap_after", "loss", "true", "before", "after"),
        ("{}", "{:.3f}", "{:.3f}", "{:.3f}", "{}", "{}", "{}"),
        lines,
    )
    return replace(table, cells=table.cells[:_SHOWN_IMAGES])


def plain_table(
    titles: tuple[str, ...],
    names: tuple[str, ...],
    formats: tuple[str, ...],
    lines: Sequence[tuple[Value, ...]],
) -> Table:
    """Return a table of lines, each column by its format."""
    return Table(
        titles=titles,
        cells=tuple(
            tuple(shown(value, template) for value, template in zip(line, formats, strict=True))
            for line in lines
        ),
        names=names,
        values=tuple(lines),
    )


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
