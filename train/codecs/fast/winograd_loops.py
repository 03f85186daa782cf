"""Tiles of a map into Winograd's domain and back: loops that Numba compiles.

All arrays are flat float32. Maps are [H, W, C], `shape` says (H, W, C); C is a multiple of sixteen.
`factors` [2, C] are what values are multiplied by and what is added then. `domain` says (height,
width, first row): values of a map that begins at that row, continued by its last row and column as
far as the domain goes, and by zeros outside. Importing this imports Numba: import it late.

A block is some rows of tiles. Its points come in the groups of `winograd`, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.codecs.fast import winograd
from train.codecs.fast.lanes import applied, copied
from train.codecs.fast.window_loops import GROUP, compiled_loop, load_column, store_line
from train.codecs.fast.winograd import LANES, PITCH


def _zero_last(d: Sequence[Any]) -> list[Any]:
    """Return what `to_points` returns, with the point 0 after the others."""
    zero, *others = winograd.to_points(d)
    return [*others, zero]


def _from_zero_last(m: Sequence[Any]) -> list[Any]:
    return winograd.from_points([m[5], *m[:5]])


_six_to_points = applied(winograd.to_points, 6)
_six_to_points_zero_last = applied(_zero_last, 6)
_five_to_points = applied(winograd.to_finite_points, 5)
_points_to_four = applied(winograd.from_points, 6)
_points_zero_last_to_four = applied(_from_zero_last, 6)
_later_points_to_four = applied(winograd.from_later_points, 5)


@compiled_loop
def conv_points(
    x: Any, shape: Any, domain: Any, factors: Any, first_row: int, num_rows: int, tiles_x: int,
    v: Any,
) -> None:  # fmt: skip
    """Fill `v` with the points of a block of a 5x5 convolution of stride 2, padded by 2.

    A tile is 4x4 results of 11x11 values; the even and the odd values of a row or column make six
    and five points. Phases: even rows and columns, even rows, even columns, none.
    """
    num_channels = shape[2]
    num_tiles = num_rows * tiles_x
    step = num_tiles * 4 * num_channels + PITCH
    edge_step = num_tiles * 2 * num_channels + PITCH
    below = 25 * step
    right = below + 5 * edge_step
    corner = right + 5 * edge_step
    column = np.empty(11 * GROUP, np.float32)
    down = np.empty(11 * 11 * GROUP, np.float32)  # [column, point]
    pitch = 11 * GROUP
    for tile_row in range(num_rows):
        top = 8 * (first_row + tile_row) - 2
        for channel in range(0, num_channels, GROUP):
            num = min(GROUP, num_channels - channel)
            for tile_x in range(tiles_x):
                tile = tile_row * tiles_x + tile_x
                begin = 3 if tile_x else 0
                for i in range(0, begin * pitch, LANES):  # columns that the tile before had
                    copied(down, 8 * pitch + i, down, i)
                for j in range(begin, 11):
                    left = 8 * tile_x - 2 + j
                    load_column(x, shape, domain, top, left, channel, num, factors, column, 11)
                    for c in range(0, num, LANES):
                        at, end = j * pitch + c, c + 10 * GROUP
                        _six_to_points(column, c, 2 * GROUP, end, down, at, GROUP, at + 5 * GROUP)
                        at, c1, end = at + 6 * GROUP, c + GROUP, c + 9 * GROUP
                        _five_to_points(column, c1, 2 * GROUP, end, down, at, GROUP, at + 4 * GROUP)
                for i in range(11):
                    odd = i // 6
                    point = i - 6 * odd
                    if point < 5:
                        place = point * 5 * step + (tile * 4 + 2 * odd) * num_channels + channel
                        stride = step
                        last = right + point * edge_step + (tile * 2 + odd) * num_channels + channel
                    else:
                        place = below + tile * 2 * num_channels + channel
                        stride = edge_step
                        last = corner + tile * num_channels + channel
                    for c in range(0, num, LANES):
                        at = i * GROUP + c
                        _six_to_points(
                            down, at, 2 * pitch, at + 10 * pitch, v, place + c, stride, last + c
                        )
                        at, odd_place = at + pitch, place + num_channels + c
                        _five_to_points(
                            down, at, 2 * pitch, at + 8 * pitch,
                            v, odd_place, stride, odd_place + 4 * stride,
                        )  # fmt: skip


@compiled_loop
def conv_results(
    m: Any, factors: Any, y: Any, shape: Any, first_row: int, num_rows: int, tiles_x: int
) -> None:
    """Fill rows of the map `y` from the products `m` of such a block: one phase, no pitch."""
    num_channels = shape[2]
    num_tiles = num_rows * tiles_x
    step = num_tiles * num_channels
    below, right, corner = 25 * step, 30 * step, 35 * step
    across = np.empty(4 * 6 * GROUP, np.float32)  # [result row, point]
    line = np.empty(4 * GROUP, np.float32)
    for tile_row in range(num_rows):
        first_y = 4 * (first_row + tile_row)
        for tile_x in range(tiles_x):
            tile = (tile_row * tiles_x + tile_x) * num_channels
            for channel in range(0, num_channels, GROUP):
                num = min(GROUP, num_channels - channel)
                for j in range(6):
                    place, last = tile + channel + j * step, tile + channel + below + j * step
                    stride = 5 * step
                    if j == 5:
                        place, stride, last = (
                            right + place - j * step,
                            step,
                            corner + tile + channel,
                        )
                    for c in range(0, num, LANES):
                        at = j * GROUP + c
                        _points_to_four(
                            m, place + c, stride, last + c,
                            across, at, 6 * GROUP, at + 18 * GROUP,
                        )  # fmt: skip
                for i in range(min(4, shape[0] - first_y)):
                    for c in range(0, num, LANES):
                        at = 6 * i * GROUP + c
                        _points_to_four(
                            across, at, GROUP, at + 5 * GROUP, line, c, GROUP, c + 3 * GROUP
                        )
                    store_line(line, y, shape, first_y + i, 4 * tile_x, 4, channel, num, factors)


@compiled_loop
def deconv_points(
    x: Any, shape: Any, domain: Any, factors: Any, first_row: int, num_rows: int, tiles_x: int,
    v: Any,
) -> None:  # fmt: skip
    """Fill `v` with the points of a block of a transposed 5x5 convolution of stride 2.

    A tile is 6x6 values, which overlap by 2, and makes 8x8 results. Groups are as the results need
    them: at the point 0 odd rows or columns have none; the point is the first of six.
    """
    num_channels = shape[2]
    num_tiles = num_rows * tiles_x
    step = num_tiles * num_channels + PITCH
    column = np.empty(6 * GROUP, np.float32)
    down = np.empty(6 * 6 * GROUP, np.float32)  # [column, point]
    pitch = 6 * GROUP
    for tile_row in range(num_rows):
        top = 4 * (first_row + tile_row) - 1
        for channel in range(0, num_channels, GROUP):
            num = min(GROUP, num_channels - channel)
            for tile_x in range(tiles_x):
                tile = (tile_row * tiles_x + tile_x) * num_channels + channel
                begin = 2 if tile_x else 0
                for i in range(0, begin * pitch, LANES):
                    copied(down, 4 * pitch + i, down, i)
                for j in range(begin, 6):
                    left = 4 * tile_x - 1 + j
                    load_column(x, shape, domain, top, left, channel, num, factors, column, 6)
                    for c in range(0, num, LANES):
                        at, end = j * pitch + c, c + 5 * GROUP
                        _six_to_points(column, c, GROUP, end, down, at, GROUP, at + 5 * GROUP)
                for i in range(6):
                    place = (5 * (i - 1) if i else 25) * step + tile  # the 25, above, left, corner
                    last = (30 + i - 1 if i else 35) * step + tile
                    for c in range(0, num, LANES):
                        at = i * GROUP + c
                        _six_to_points_zero_last(
                            down, at, pitch, at + 5 * pitch, v, place + c, step, last + c
                        )


@compiled_loop
def deconv_results(
    m: Any, factors: Any, y: Any, shape: Any, first_row: int, num_rows: int, tiles_x: int
) -> None:
    """Fill rows of the map `y` from the products `m` of such a block, in its four groups.

    They hold the phases even rows and columns, even rows, even columns, none; `shape` is the map's,
    which may end before the tiles do.
    """
    num_channels = shape[2]
    num_tiles = num_rows * tiles_x
    step, edge_step = num_tiles * 4 * num_channels, num_tiles * 2 * num_channels
    above = 25 * step
    left = above + 5 * edge_step
    corner = left + 5 * edge_step
    across = np.empty(8 * 12 * GROUP, np.float32)  # [result row, even points, odd points]
    line = np.empty(8 * GROUP, np.float32)
    pitch = 12 * GROUP
    for tile_row in range(num_rows):
        first_y = 8 * (first_row + tile_row)
        for tile_x in range(tiles_x):
            tile = tile_row * tiles_x + tile_x
            for channel in range(0, num_channels, GROUP):
                num = min(GROUP, num_channels - channel)
                for odd in range(2):  # columns
                    for j in range(odd, 6):
                        if j:
                            place = (j - 1) * step + (tile * 4 + odd) * num_channels + channel
                            stride = 5 * step
                            low = 2 * num_channels
                            first = above + (j - 1) * edge_step
                            first += (tile * 2 + odd) * num_channels + channel
                        else:
                            place = left + tile * 2 * num_channels + channel
                            stride = edge_step
                            low = num_channels
                            first = corner + tile * num_channels + channel
                        for c in range(0, num, LANES):
                            at = (6 * odd + j) * GROUP + c
                            _points_zero_last_to_four(
                                m, place + c, stride, first + c,
                                across, at, 2 * pitch, at + 6 * pitch,
                            )  # fmt: skip
                            at += pitch
                            end = place + low + 4 * stride + c
                            _later_points_to_four(
                                m, place + low + c, stride, end,
                                across, at, 2 * pitch, at + 6 * pitch,
                            )  # fmt: skip
                for i in range(min(8, shape[0] - first_y)):
                    for c in range(0, num, LANES):
                        at = i * pitch + c
                        _points_to_four(
                            across, at, GROUP, at + 5 * GROUP,
                            line, c, 2 * GROUP, c + 6 * GROUP,
                        )  # fmt: skip
                        at, place = at + 7 * GROUP, c + GROUP
                        _later_points_to_four(
                            across, at, GROUP, at + 4 * GROUP,
                            line, place, 2 * GROUP, place + 6 * GROUP,
                        )  # fmt: skip
                    store_line(line, y, shape, first_y + i, 8 * tile_x, 8, channel, num, factors)
