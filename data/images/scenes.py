"""Built-in example: small synthetic scenes with boxes, rendered from (index, seed), never stored.

A scene is a textured background with clutter and two to seven textured objects of five classes,
12 to 120 px a side, drawn back to front so that later ones hide parts of earlier ones. The same
(index, seed) gives the same pixels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("disc", "box", "triangle", "ring", "cross")

# Odd sizes on purpose: the 192/256 detector pads (180, 250) into the bucket of (192, 256).
SIZES_HW_PX = ((192, 256), (256, 192), (180, 250), (192, 192))

# An object hidden by more than this share is not annotated, as a person would not mark it either.
MAX_HIDDEN_SHARE = 0.6

_RNG_DOMAIN = 0x5CE7E5


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """`image` uint8 [H, W, 3]; `boxes_xyxy` float32 [N, 4] px; `labels` int64 [N], from 1."""

    image: NDArray[Any]
    boxes_xyxy: NDArray[Any]
    labels: NDArray[Any]


def render_scene(index: int, seed: int) -> Scene:
    """Render scene number `index` of the family `seed`."""
    rng = _generator(index, seed)
    height, width = SIZES_HW_PX[int(rng.integers(len(SIZES_HW_PX)))]
    image = _background(rng, height, width)
    _clutter(rng, image)
    owner = np.zeros((height, width), dtype=np.int64)
    areas, labels = [0], [0]
    for _ in range(int(rng.integers(2, 8))):
        label = int(rng.integers(len(CLASSES))) + 1
        mask = _object_mask(rng, label, height, width)
        _paint(rng, image, mask)
        areas.append(int(mask.sum()))
        labels.append(label)
        owner[mask] = len(labels) - 1
    boxes, kept = [], []
    for number in range(1, len(labels)):
        rows, columns = np.nonzero(owner == number)
        if rows.size < (1 - MAX_HIDDEN_SHARE) * areas[number] or rows.size == 0:
            continue
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        kept.append(labels[number])
    noise = rng.normal(0.0, 4.0, size=image.shape).astype(np.float32)
    return Scene(
        image=np.clip(image + noise, 0, 255).astype(np.uint8),
        boxes_xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.asarray(kept, dtype=np.int64),
    )


def _generator(index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([_RNG_DOMAIN, seed, index])


def _background(rng: np.random.Generator, height: int, width: int) -> NDArray[Any]:
    """Sum of four octaves of bilinear value noise over a colour gradient, float32 [H, W, 3]."""
    corners = rng.uniform(40, 215, size=(2, 2, 3))
    image = _stretch(corners, height, width)
    for cells, amplitude in ((4, 40.0), (8, 26.0), (16, 16.0), (48, 10.0)):
        grid = rng.normal(0.0, 1.0, size=(cells, cells, 1))
        tint = rng.uniform(0.5, 1.0, size=3)
        image += amplitude * _stretch(grid, height, width) * tint
    return image.astype(np.float32)


def _stretch(grid: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bilinear interpolation of a coarse grid [h, w, C] to [height, width, C]."""
    rows = np.linspace(0, grid.shape[0] - 1, height)
    columns = np.linspace(0, grid.shape[1] - 1, width)
    top = np.minimum(rows.astype(np.int64), grid.shape[0] - 2)
    left = np.minimum(columns.astype(np.int64), grid.shape[1] - 2)
    down = (rows - top)[:, None, None]
    right = (columns - left)[None, :, None]
    upper = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
    lower = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
    stretched: NDArray[Any] = upper * (1 - down) + lower * down
    return stretched


def _clutter(rng: np.random.Generator, image: NDArray[Any]) -> None:
    """Draw thin streaks that are no objects, so that an edge alone proves nothing."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(int(rng.integers(2, 7))):
        angle = rng.uniform(0, np.pi)
        offset = rng.uniform(0, 1)
        across = (x - offset * width) * np.sin(angle) - (y - offset * height) * np.cos(angle)
        streak = np.abs(across) < rng.uniform(0.6, 2.5)
        image[streak] = 0.4 * image[streak] + 0.6 * rng.uniform(0, 255, size=3)


def _object_mask(rng: np.random.Generator, label: int, height: int, width: int) -> NDArray[Any]:
    """Boolean [H, W] silhouette; sides are drawn log-uniformly so that small objects are common."""
    side = float(np.exp(rng.uniform(np.log(14), np.log(120))))
    aspect = float(np.exp(rng.uniform(-0.35, 0.35)))
    half_w = max(6.0, side * aspect / 2)
    half_h = max(6.0, side / aspect / 2)
    center_x = rng.uniform(min(half_w, width / 2) * 0.8, width - min(half_w, width / 2) * 0.8)
    center_y = rng.uniform(min(half_h, height / 2) * 0.8, height - min(half_h, height / 2) * 0.8)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    tilt = rng.uniform(-0.35, 0.35)
    u = ((x - center_x) * np.cos(tilt) + (y - center_y) * np.sin(tilt)) / half_w
    v = (-(x - center_x) * np.sin(tilt) + (y - center_y) * np.cos(tilt)) / half_h
    name = CLASSES[label - 1]
    mask: NDArray[Any]
    if name == "disc":
        mask = u * u + v * v <= 1
    elif name == "box":
        mask = np.maximum(np.abs(u), np.abs(v)) <= 0.9
    elif name == "triangle":
        mask = (v <= 0.9) & (np.abs(u) <= (v + 1) / 2)
    elif name == "ring":
        radius_squared = u * u + v * v
        mask = (radius_squared <= 1) & (radius_squared >= 0.3)
    else:
        mask = (np.maximum(np.abs(u), np.abs(v)) <= 1) & (np.minimum(np.abs(u), np.abs(v)) <= 0.3)
    return mask


def _paint(rng: np.random.Generator, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """Fill the silhouette with stripes, checks or speckle; texture is no class cue."""
    height, width = mask.shape
    first = rng.uniform(0, 255, size=3)
    second = np.clip(first + rng.choice([-1, 1]) * rng.uniform(50, 140, size=3), 0, 255)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    period = rng.uniform(5, 16)
    kind = int(rng.integers(3))
    if kind == 0:
        angle = rng.uniform(0, np.pi)
        blend = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    elif kind == 1:
        blend = ((x // period + y // period) % 2).astype(np.float32)
    else:
        blend = _stretch(rng.uniform(0, 1, size=(24, 24, 1)), height, width)[..., 0]
    color = first * (1 - blend[..., None]) + second * blend[..., None]
    image[mask] = color[mask]
