"""Maps read and written a few positions at a time: loops that Numba compiles.

All arrays are flat float32. Maps are [H, W, C], `shape` says (H, W, C); C is a multiple of sixteen.
`factors` [2, C] are what values are multiplied by and what is added then. `domain` says (height,
width, first row): values of a map that begins at that row, continued by its last row and column as
far as the domain goes, and by zeros outside. Importing this imports Numba: import it late.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from data.system.compiled_loops import compiled
from train.codecs.fast.lanes import added, cleared, copied, scaled
from train.codecs.fast.winograd import LANES

GROUP = 256  # channels at a time: what is written lies side by side for as many
compiled_loop = partial(compiled, error_model="numpy")


@compiled_loop
def load_column(
    x: Any, shape: Any, domain: Any, top: int, column: int, channel: int, num: int, factors: Any,
    into: Any, num_rows: int,
) -> None:  # fmt: skip
    """Write values of a column of x, times and plus the factors, into `into` [rows, GROUP]."""
    num_channels = shape[2]
    inside = 0 <= column < domain[1]
    for i in range(num_rows):
        row = top + i
        if inside and 0 <= row < domain[0]:
            y, x_ = min(row - domain[2], shape[0] - 1), min(column, shape[1] - 1)
            at = (y * shape[1] + x_) * num_channels + channel
            for c in range(0, num, LANES):
                scaled(x, at + c, factors, channel + c, num_channels, into, i * GROUP + c)
        else:
            for c in range(0, num, LANES):
                cleared(into, i * GROUP + c)


@compiled_loop
def store_line(
    line: Any, y: Any, shape: Any, row: int, column: int, num_columns: int, channel: int, num: int,
    factors: Any,
) -> None:  # fmt: skip
    """Write `line` [columns, GROUP], times and plus the factors, where it lies within the map."""
    for j in range(min(num_columns, shape[1] - column)):
        at = (row * shape[1] + column + j) * shape[2] + channel
        for c in range(0, num, LANES):
            scaled(line, j * GROUP + c, factors, channel + c, shape[2], y, at + c)


@compiled_loop
def conv_window(x: Any, shape: Any, domain: Any, factors: Any, size: Any, window: Any) -> None:
    """Fill `window` [size, 5, 5, C] with what each result of a convolution sees."""
    num_channels = shape[2]
    column = np.empty(5 * GROUP, np.float32)
    for y in range(size[0]):
        for x_ in range(size[1]):
            at = (y * size[1] + x_) * 25 * num_channels
            for channel in range(0, num_channels, GROUP):
                num = min(GROUP, num_channels - channel)
                for j in range(5):
                    left = 2 * x_ - 2 + j
                    load_column(x, shape, domain, 2 * y - 2, left, channel, num, factors, column, 5)
                    for i in range(5):
                        place = at + (5 * i + j) * num_channels + channel
                        for c in range(0, num, LANES):
                            copied(column, i * GROUP + c, window, place + c)


@compiled_loop
def deconv_sum(products: Any, size: Any, factors: Any, y: Any, shape: Any) -> None:
    """Fill the map `y` from the products [size, 5, 5, C] of each value with the kernel."""
    num_channels = shape[2]
    total = np.empty(num_channels, np.float32)
    for row in range(shape[0]):
        for column in range(shape[1]):
            for c in range(0, num_channels, LANES):
                cleared(total, c)
            for i in range((row + 2) % 2, 5, 2):
                from_y = (row + 2 - i) // 2
                if not 0 <= from_y < size[0]:
                    continue
                for j in range((column + 2) % 2, 5, 2):
                    from_x = (column + 2 - j) // 2
                    if not 0 <= from_x < size[1]:
                        continue
                    at = ((from_y * size[1] + from_x) * 25 + 5 * i + j) * num_channels
                    for c in range(0, num_channels, LANES):
                        added(products, at + c, total, c)
            at = (row * shape[1] + column) * num_channels
            for c in range(0, num_channels, LANES):
                scaled(total, c, factors, c, num_channels, y, at + c)
