"""Pictures of one level and of one image: latent rates, values, maps before and after, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analyze.plots.figures import COLORS, Plot, Theme, draw_plot, dress
from analyze.plots.level_details import LatentRate, MapPictures, ValueHistogram
from configs.errors import ConfigError
from data.images.image_sets import read_image

_PHOTO_COLORS = 128  # a quarter of the bytes; a report holds many photographs, in two themes each
_BOX_STYLES = (("truth", "#FFFFFF", "-"), ("before", "#56B4E9", "-"), ("after", "#E69F00", "--"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBoxes:
    """Boxes of one image, float [N, 4] each, xyxy in px of the original image."""

    truth: NDArray[Any]
    before: NDArray[Any]
    """Detected from the cached features."""
    after: NDArray[Any]
    """Detected from the decoded ones."""


def latent_rate_plot(level: int, rates: Sequence[LatentRate]) -> Plot:
    """Return the bits of each latent channel, dearest first, one line for each latent."""
    return draw_plot(
        f"level_{level}_latents",
        f"Level {level}: estimated bits of each latent channel, dearest first",
        partial(_draw_latent_rates, rates),
    )


def histogram_plot(level: int, histogram: ValueHistogram) -> Plot:
    """Return the values as cached and decoded in one diagram, counts on a logarithmic axis."""
    return draw_plot(
        f"level_{level}_values",
        f"Level {level}: values as cached and decoded",
        partial(_draw_histogram, histogram),
    )


def maps_plot(level: int, pictures: Sequence[MapPictures]) -> Plot:
    """Return rows of before, after and difference, each row with one scale and its colour bar."""
    height, width = pictures[0].before.shape
    # As wide as a page, but a tall map must not make an endless figure.
    row_inches = min(2.9 * height / width, 4.0) + 0.35
    return draw_plot(
        f"level_{level}_maps",
        f"Level {level}: features before and after, and their difference, on one scale",
        partial(_draw_maps, pictures),
        size_inches=(9.6, row_inches * len(pictures)),
    )


def boxes_plot(name: str, title: str, file: str, boxes: ImageBoxes) -> Plot | None:
    """Return the image with the true boxes, and those detected before and after compression.

    Two panels: truth with before, truth with after. `file` is a path or `scene:<seed>:<index>`;
    None if it cannot be read, as when the analysis runs where the images are not.
    """
    try:
        image = read_image(file)
    except ConfigError:
        return None
    height, width = image.shape[:2]
    panel_inches = min(4.7 * height / width, 6.0)
    return draw_plot(
        name,
        title,
        partial(_draw_boxes, image, boxes),
        size_inches=(9.6, panel_inches + 0.6),
        num_colors=_PHOTO_COLORS,
    )


def _draw_latent_rates(rates: Sequence[LatentRate], figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    for number, rate in enumerate(rates):
        values = np.sort(rate.bits_per_position)[::-1]
        axes.stairs(
            values,
            np.arange(len(values) + 1),
            fill=number == 0,
            color=COLORS[number],
            linewidth=1.6,
            label=f"{rate.name}: {values.sum():.3g} bits per position in {len(values)} channels",
        )
    axes.set_xlabel("latent channels, dearest first")
    axes.set_ylabel("bits per feature position")
    axes.set_ylim(bottom=0)
    _finish(axes, theme)


def _draw_histogram(histogram: ValueHistogram, figure: Figure, theme: Theme) -> None:
    axes = figure.add_subplot()
    axes.stairs(
        histogram.before, histogram.edges, fill=True, color=COLORS[0], alpha=0.45, label="as cached"
    )
    axes.stairs(histogram.after, histogram.edges, color=COLORS[5], linewidth=1.6, label="decoded")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_xlabel("feature value")
    axes.set_ylabel("number of values")
    _finish(axes, theme)


def _finish(axes: Axes, theme: Theme) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=theme.ink, alpha=0.15)
    axes.legend(frameon=False, labelcolor=theme.ink)
    dress(axes, theme)


def _draw_maps(pictures: Sequence[MapPictures], figure: Figure, theme: Theme) -> None:
    for row, each in enumerate(pictures):
        shown = (each.before, each.after, each.difference)
        row_axes = [
            figure.add_subplot(len(pictures), 3, row * 3 + column + 1) for column in range(3)
        ]
        for axes, values, title in zip(
            row_axes, shown, ("before", "after", "difference"), strict=True
        ):
            drawn = axes.imshow(
                values,
                cmap="RdBu_r" if each.is_signed else "viridis",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
            _without_ticks(axes, theme)
            axes.set_title(f"{each.title}, {title}", fontsize="small")
        bar = figure.colorbar(drawn, ax=row_axes, shrink=0.85, pad=0.01)
        low = -each.scale if each.is_signed else 0.0
        bar.set_ticks(
            [0, 127.5, 255], labels=[f"{v:.3g}" for v in (low, (low + each.scale) / 2, each.scale)]
        )
        bar.ax.tick_params(colors=theme.ink, labelsize="small")


def _draw_boxes(image: NDArray[Any], boxes: ImageBoxes, figure: Figure, theme: Theme) -> None:
    found = {"truth": boxes.truth, "before": boxes.before, "after": boxes.after}
    for column, panel in enumerate(("before", "after")):
        axes = figure.add_subplot(1, 2, column + 1)
        axes.imshow(image)
        for name, color, line in _BOX_STYLES:
            if name in ("truth", panel):
                for box in found[name].tolist():
                    _draw_box(axes, box, color, line)
        _without_ticks(axes, theme)
        axes.set_title(
            f"{panel}: {len(found[panel])} detected, {len(boxes.truth)} true", fontsize="small"
        )
    figure.legend(
        [Rectangle((0, 0), 1, 1, fill=False, edgecolor=c, linestyle=s) for _, c, s in _BOX_STYLES],
        ["true", "detected before", "detected after"],
        loc="outside lower center",
        ncols=3,
        facecolor="#59636e",
        labelcolor="#ffffff",
    )


def _draw_box(axes: Axes, box: Sequence[float], color: str, line: str) -> None:
    left, top, right, bottom = box
    # A dark line under the coloured one shows it on any ground.
    for edge, width, dashes in (("#000000", 2.6, "-"), (color, 1.3, line)):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=edge,
                linewidth=width,
                linestyle=dashes,
            )
        )


def _without_ticks(axes: Axes, theme: Theme) -> None:
    dress(axes, theme)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
