"""A map's channels side by side in one grey picture, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def grid_of(num_channels: int) -> tuple[int, int]:
    """Return (rows, columns), as near to a square as holds all channels: 256 -> (16, 16)."""
    columns = math.isqrt(num_channels - 1) + 1
    return -(-num_channels // columns), columns


def picture_hw(size_hw: tuple[int, int], num_channels: int, min_side_px: int) -> tuple[int, int]:
    """Return the picture's (height, width) in px: even, as 4:2:0 needs, and at least that large."""
    rows, columns = grid_of(num_channels)
    height, width = (
        max(min_side_px, side + side % 2) for side in (rows * size_hw[0], columns * size_hw[1])
    )
    return height, width


def tile(values: NDArray[Any], min_side_px: int) -> NDArray[Any]:
    """Return the picture [h, w] of a map [H, W, C], channel 0 top left, row by row.

    Free tiles and the padding to codable sides repeat what is beside them, which costs few bits.
    """
    height, width, num_channels = values.shape
    rows, columns = grid_of(num_channels)
    free = rows * columns - num_channels
    channels = np.pad(values.transpose(2, 0, 1), ((0, free), (0, 0), (0, 0)), mode="edge")
    tiles = channels.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    picture = tiles.reshape(rows * height, columns * width)
    padded = picture_hw((height, width), num_channels, min_side_px)
    missing = [(0, side - held) for side, held in zip(padded, picture.shape, strict=True)]
    return np.pad(picture, missing, mode="edge")


def untile(picture: NDArray[Any], size_hw: tuple[int, int], num_channels: int) -> NDArray[Any]:
    """Return the map [H, W, C] of a picture that `tile` made."""
    height, width = size_hw
    rows, columns = grid_of(num_channels)
    tiles = picture[: rows * height, : columns * width].reshape(rows, height, columns, width)
    channels = tiles.transpose(0, 2, 1, 3).reshape(rows * columns, height, width)
    return np.ascontiguousarray(channels[:num_channels].transpose(1, 2, 0))
