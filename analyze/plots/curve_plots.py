"""Curves as a paper prints them: mAP against bits, and rate against distortion for each level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analyze.plots.figures import COLORS, Plot, Theme, draw_plot, dress

_MARKERS = "osD^vPX"
_COLUMNS = 3
_LINEAR_UP_TO = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlotPoint:
    """One measured point, and its 95 % interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one method, in any order. "ours": solid and filled; "anchor": dashed, hollow."""

    name: str
    points: tuple[PlotPoint, ...]
    style: Literal["ours", "anchor"]


def map_plot(
    series: Sequence[Series],
    *,
    chosen: PlotPoint | None = None,
    chosen_name: str = "allocated",
    original: float | None = None,
) -> Plot | None:
    """Return mAP (y, 0..1) against bits per pixel (x, logarithmic), or None without any point.

    `chosen`: the allocation's point, marked with a star, under its name; `original`: mAP of the
    cached features, a dotted line. Points of no bits have no place on a logarithmic axis and are
    left out.
    """
    drawable = _with_place(series)
    if not drawable:
        return None
    return draw_plot(
        "map_rate",
        "mAP 0.50:0.95 against bits per pixel of the original images; "
        "bars: 95 % intervals, of several seeds their range",
        partial(_draw_map, drawable, chosen, chosen_name, original),
    )


def level_curves_plot(levels: Sequence[tuple[int, Sequence[Series]]]) -> Plot | None:
    """Return PSNR in dB (y) against bits per pixel (x, logarithmic), one panel for each level.

    Levels without any point get no panel; None if no level has one. A method has the same colour
    and marker in all panels.
    """
    panels = [(level, _with_place(series)) for level, series in levels]
    panels = [(level, series) for level, series in panels if series]
    if not panels:
        return None
    rows = math.ceil(len(panels) / _COLUMNS)
    return draw_plot(
        "level_curves",
        "Rate and distortion of each level: PSNR in dB against bits per pixel",
        partial(_draw_levels, panels),
        size_inches=(9.6, 2.9 * rows + 0.5),
    )


def _with_place(series: Sequence[Series]) -> list[Series]:
    kept = [
        Series(
            name=each.name,
            points=tuple(
                sorted(
                    (point for point in each.points if point.x > 0 and math.isfinite(point.y)),
                    key=lambda point: point.x,
                )
            ),
            style=each.style,
        )
        for each in series
    ]
    return [each for each in kept if each.points]


def _draw_map(
    series: Sequence[Series],
    chosen: PlotPoint | None,
    chosen_name: str,
    original: float | None,
    figure: Figure,
    theme: Theme,
) -> None:
    axes = figure.add_subplot()
    for number, each in enumerate(series):
        _draw_series(axes, each, number, theme)
    if original is not None:
        axes.axhline(original, color=theme.ink, linestyle=":", linewidth=1, label="as cached")
    if chosen is not None and chosen.x > 0:
        axes.plot(
            [chosen.x],
            [chosen.y],
            "*",
            color="#D55E00",
            markeredgecolor=theme.ink,
            markersize=15,
            linestyle="none",
            label=chosen_name,
            zorder=5,
        )
    _finish(axes, theme)
    axes.set_ylabel("mAP 0.50:0.95")
    axes.set_xlabel("bits per pixel")
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize="small")


def _draw_levels(
    panels: Sequence[tuple[int, Sequence[Series]]], figure: Figure, theme: Theme
) -> None:
    names = list(dict.fromkeys(each.name for _, series in panels for each in series))
    rows = math.ceil(len(panels) / _COLUMNS)
    handles: dict[str, Artist] = {}
    for place, (level, series) in enumerate(panels):
        axes = figure.add_subplot(rows, min(_COLUMNS, len(panels)), place + 1)
        for each in series:
            _draw_series(axes, each, names.index(each.name), theme)
        axes.set_title(f"level {level}", fontsize="medium")
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel("PSNR in dB")
        _finish(axes, theme)
        found, labels = axes.get_legend_handles_labels()
        handles.update(dict(zip(labels, found, strict=True)))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(len(names), 4),
        frameon=False,
        labelcolor=theme.ink,
    )


def _draw_series(axes: Axes, series: Series, number: int, theme: Theme) -> None:
    color = COLORS[number % len(COLORS)]
    x = [point.x for point in series.points]
    y = [point.y for point in series.points]
    below = [0.0 if point.low is None else max(point.y - point.low, 0.0) for point in series.points]
    above = [
        0.0 if point.high is None else max(point.high - point.y, 0.0) for point in series.points
    ]
    is_ours = series.style == "ours"
    axes.errorbar(
        x,
        y,
        yerr=[below, above] if any(below) or any(above) else None,
        color=color,
        marker=_MARKERS[number % len(_MARKERS)],
        markerfacecolor=color if is_ours else theme.ground,
        markersize=5,
        linestyle="-" if is_ours else "--",
        linewidth=1.6 if is_ours else 1.1,
        elinewidth=0.8,
        capsize=2,
        label=series.name,
    )


def _finish(axes: Axes, theme: Theme) -> None:
    low, high = axes.dataLim.intervalx
    if high > _LINEAR_UP_TO * low:  # within less than a decade a logarithmic axis has no ticks
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color=theme.ink, alpha=0.15)
    dress(axes, theme)
