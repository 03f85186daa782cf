"""Plots and pictures: real PNGs in both themes, and SVG whose text can be read."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analyze.plots.curve_plots import PlotPoint, Series, level_curves_plot, map_plot
from analyze.plots.figures import DARK, LIGHT, Plot
from analyze.plots.level_details import LatentRate, ValueHistogram, map_pictures
from analyze.plots.pictures import (
    ImageBoxes,
    boxes_plot,
    histogram_plot,
    latent_rate_plot,
    maps_plot,
)
from data.images.scenes import render_scene

OURS = Series(
    name="specific",
    style="ours",
    points=(
        PlotPoint(x=0.4, y=0.51, low=0.49, high=0.53),
        PlotPoint(x=0.1, y=0.50, low=0.48, high=0.52),
        PlotPoint(x=0.0, y=0.1),
    ),
)
ANCHOR = Series(
    name="KLT", style="anchor", points=(PlotPoint(x=5.0, y=0.5), PlotPoint(x=0.7, y=0.48))
)
NOTHING = Series(name="nothing", style="anchor", points=())


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def words(plot: Plot) -> str:
    """All text of the plot's SVG."""
    return " ".join(text.strip() for text in ET.fromstring(plot.svg).itertext() if text.strip())


def require_whole(plot: Plot) -> None:
    """Both PNGs are pictures on their theme's ground, of one size, and not just ground."""
    light, dark = pixels(plot.light_png), pixels(plot.dark_png)
    assert light.shape == dark.shape
    for picture, theme in ((light, LIGHT), (dark, DARK)):
        ground = [int(theme.ground[place : place + 2], 16) for place in (1, 3, 5)]
        # A palette of few colours moves each by a shade.
        assert np.abs(picture[0, 0].astype(int) - ground).max() <= 4
        assert (picture != picture[0, 0]).any(2).mean() > 0.01


def test_map_plot_shows_each_method_the_choice_and_the_original() -> None:
    plot = map_plot([OURS, ANCHOR, NOTHING], chosen=PlotPoint(x=0.2, y=0.505), original=0.53)
    assert plot is not None
    require_whole(plot)
    shown = words(plot)
    for word in ("specific", "KLT", "allocated", "as cached", "bits per pixel", "mAP"):
        assert word in shown
    assert "nothing" not in shown


def test_interval_changes_the_picture() -> None:
    with_bars = map_plot([OURS])
    points = tuple(PlotPoint(x=point.x, y=point.y) for point in OURS.points)
    without = map_plot([Series(name="specific", style="ours", points=points)])
    assert with_bars is not None and without is not None
    assert with_bars.light_png != without.light_png


def test_same_values_give_the_same_bytes() -> None:
    assert map_plot([OURS, ANCHOR]) == map_plot([OURS, ANCHOR])


def test_no_point_gives_no_plot() -> None:
    at_zero = Series(name="free", style="ours", points=(PlotPoint(x=0.0, y=0.4),))
    assert map_plot([NOTHING, at_zero]) is None
    assert level_curves_plot([(0, [NOTHING])]) is None


def test_each_level_with_points_gets_a_panel() -> None:
    plot = level_curves_plot([(0, [OURS, ANCHOR]), (1, [NOTHING]), (2, [ANCHOR]), (3, [OURS])])
    assert plot is not None
    require_whole(plot)
    shown = words(plot)
    assert all(f"level {level}" in shown for level in (0, 2, 3))
    assert "level 1" not in shown


def test_latent_rates_are_named_with_their_sum() -> None:
    rates = [
        LatentRate(name="y", bits_per_position=np.array([0.5, 0.0, 1.5])),
        LatentRate(name="z", bits_per_position=np.array([0.01, 0.02])),
    ]
    plot = latent_rate_plot(1, rates)
    require_whole(plot)
    assert "y: 2 bits per position in 3 channels" in words(plot)
    assert "z: 0.03 bits per position in 2 channels" in words(plot)


def test_histogram_shows_both_sides() -> None:
    edges = np.linspace(-1, 1, 5)
    histogram = ValueHistogram(
        edges=edges, before=np.array([1, 900, 30, 0]), after=np.array([0, 931, 0, 0])
    )
    plot = histogram_plot(0, histogram)
    require_whole(plot)
    assert "as cached" in words(plot) and "decoded" in words(plot)


@pytest.mark.parametrize("shape", [(12, 20, 4), (40, 6, 4)])
def test_maps_are_shown_before_after_and_as_difference(shape: tuple[int, int, int]) -> None:
    before = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    plot = maps_plot(3, map_pictures(before, before * 0.9, num_channels=1))
    require_whole(plot)
    shown = words(plot)
    for word in ("mean |x| over channels, before", "difference", "channel"):
        assert word in shown


def test_boxes_are_drawn_on_the_image() -> None:
    truth = render_scene(index=0, seed=5).boxes_xyxy.astype(np.float32)
    boxes = ImageBoxes(truth=truth, before=truth + 3, after=truth[:0])
    plot = boxes_plot("image_1", "Hurt most", "scene:5:0", boxes)
    assert plot is not None
    require_whole(plot)
    assert f"before: {len(truth)} detected, {len(truth)} true" in words(plot)
    assert f"after: 0 detected, {len(truth)} true" in words(plot)


def test_image_that_is_gone_gives_no_picture(tmp_path: Path) -> None:
    none = np.zeros((0, 4), dtype=np.float32)
    boxes = ImageBoxes(truth=none, before=none, after=none)
    assert boxes_plot("image_1", "Hurt most", str(tmp_path / "gone.jpg"), boxes) is None
