"""Tables of what an analysis found beyond levels and detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analyze.allocation.allocate import AllocationFinding
from analyze.detection.sensitivity import Sensitivity
from analyze.measure.trained_only import TrainedRun
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
    return plain_table(
        ("", "sent as", "bits/px", "MSE", "mAP drop"),
        ("level", "sent_as", "bits_per_pixel", "mse", "map_drop"),
        ("{}", "{}", "{:.4g}", "{:.4g}", "{:.4f}"),
        lines,
    )


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
