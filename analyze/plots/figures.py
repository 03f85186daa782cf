"""The report's plots, drawn without a display: PNG in a light and a dark version, and SVG."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from analyze.facts.results import AnalysisResult, Measurement, measured

# Okabe and Ito's colours: told apart by colour-blind readers, legible on light and on dark.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_LEARNER_MARKERS = "os^D"


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """Colours of a figure's ground and of its text and lines."""

    name: str
    ground: str
    ink: str


LIGHT = Theme(name="light", ground="#ffffff", ink="#1f2328")
DARK = Theme(name="dark", ground="#161b22", ink="#e6edf3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One picture: its file name without ending, what it shows, both versions as PNG, and SVG."""

    name: str
    title: str
    light_png: bytes
    dark_png: bytes
    svg: bytes
    """The light version, with text as text; the same bytes for the same values."""


def make_plots(result: AnalysisResult) -> list[Plot]:
    """Draw every plot for which there is something to show."""
    wanted: list[tuple[str, str, Callable[[Axes, AnalysisResult, Theme], None], bool]] = [
        (
            "rate_distortion",
            "Rate and distortion of each run (filled: real bitstreams, hollow: estimated)",
            _rate_distortion,
            bool(measured(result)),
        ),
        ("share", "Share of all feature values by level", _share, bool(result.rows)),
    ]
    return [
        draw_plot(name, title, partial(_draw_alone, draw, result))
        for name, title, draw, has_data in wanted
        if has_data
    ]


def draw_plot(
    name: str,
    title: str,
    draw: Callable[[Figure, Theme], None],
    *,
    size_inches: tuple[float, float] = (6.4, 4.0),
    num_colors: int | None = None,
) -> Plot:
    """Return the figure that `draw` fills, in both themes as PNG and the light one as SVG.

    `num_colors`: reduce the PNGs to a palette of so many, 256 at most; None: all colours.
    """

    def drawn(theme: Theme) -> Figure:
        figure = Figure(figsize=size_inches, dpi=130, layout="constrained", facecolor=theme.ground)
        draw(figure, theme)
        return figure

    light, dark = drawn(LIGHT), drawn(DARK)
    light_png = _png(light, num_colors)
    # The one is laid out by now, which takes as long as drawing it; the other is to look the same.
    for figure in (light, dark):
        figure.set_layout_engine("none")
    for axes, placed in zip(dark.axes, light.axes, strict=True):
        axes.set_position(placed.get_position(original=True))
    return Plot(
        name=name,
        title=title,
        light_png=light_png,
        dark_png=_png(dark, num_colors),
        svg=_svg(light, name),
    )


# A figure's own savefig draws it twice, to find out first how large it is.


def _png(figure: Figure, num_colors: int | None) -> bytes:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    picture = Image.frombuffer("RGBA", (width, height), bytes(canvas.buffer_rgba())).convert("RGB")
    if num_colors is not None:
        picture = picture.quantize(num_colors)
    content = io.BytesIO()
    picture.save(content, format="png", optimize=num_colors is not None)
    return content.getvalue()


def _svg(figure: Figure, name: str) -> bytes:
    content = io.BytesIO()
    # Without salt and date, two reports of the same values would differ.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(content, metadata={"Date": None})
    return content.getvalue()


def dress(axes: Axes, theme: Theme) -> None:
    """Give the axes the theme's colours, and lines at the left and at the bottom only."""
    axes.set_facecolor(theme.ground)
    axes.tick_params(which="both", colors=theme.ink)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.ink)


def _draw_alone(
    draw: Callable[[Axes, AnalysisResult, Theme], None],
    result: AnalysisResult,
    figure: Figure,
    theme: Theme,
) -> None:
    axes = figure.add_subplot()
    draw(axes, result, theme)
    dress(axes, theme)


def _rate_distortion(axes: Axes, result: AnalysisResult, theme: Theme) -> None:
    points = measured(result)
    lines: dict[tuple[int, str], list[Measurement]] = defaultdict(list)
    for row, run in points:
        lines[row.facts.level, row.curve].append(run)
    curves = list(dict.fromkeys(row.curve for row, _ in points))
    for (level, curve), runs in sorted(lines.items()):
        runs.sort(key=lambda run: run.real_bpp)
        color, place = COLORS[level % len(COLORS)], curves.index(curve)
        marker = _LEARNER_MARKERS[place % len(_LEARNER_MARKERS)]
        psnr = [run.psnr_db for run in runs]
        real = [run.real_bpp for run in runs]
        estimated = [run.estimated_bpp for run in runs]
        axes.plot(
            real, psnr, marker, linestyle="--" if place else "-", color=color, markersize=6,
            label=f"level {level}" + (f", {curve}" if curve else ""),
        )  # fmt: skip
        axes.plot(estimated, psnr, marker, color=color, fillstyle="none", markersize=9)
    axes.set_xlabel("bits per feature position")
    axes.set_ylabel("PSNR in dB, against the level's own range")
    axes.grid(color=theme.ink, alpha=0.15)
    small = "small" if len(lines) > len(COLORS) else None
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=small)


def _share(axes: Axes, result: AnalysisResult, theme: Theme) -> None:
    facts = {row.facts.level: row.facts for row in result.rows}
    bars = [
        (f"level {level}", each.share * 100, COLORS[level % len(COLORS)])
        for level, each in sorted(facts.items())
    ]
    _horizontal_bars(axes, bars, theme, "{:.1f} %")
    axes.set_xlabel("share of the values in %")


def _horizontal_bars(
    axes: Axes, bars: list[tuple[str, float, str]], theme: Theme, template: str
) -> None:
    names, lengths, colors = zip(*bars, strict=True)
    places = range(len(bars))
    drawn = axes.barh(places, lengths, color=colors, height=0.65)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.bar_label(
        drawn, [template.format(length) for length in lengths], padding=4, color=theme.ink
    )
    axes.margins(x=0.15)
