"""What storing a map takes of arithmetic, in one pass over it, compiled by Numba.

A map comes channel by channel and leaves position by position. The pass takes a few channels and a
thousand positions at a time, so that all but the first reading and the last writing happens in the
processor's cache.

Importing Numba takes a while: import this late.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.system.compiled_loops import LANES, compiled
from data.writing.cast_vectors import ROWS, RUN, rounded, shortened, transposed

_CHANNELS = 64  # 128 bytes of halves at a position: two cache lines, which are fetched together
_POSITIONS = 1024
_PITCH = _POSITIONS + 32  # else the rows of a tile would all begin at one place of a page
_F = np.float32

_compiled = partial(compiled, error_model="numpy")


@_compiled
def _add(sums: Any, num_before: int, num: int, shift: Any, found: Any) -> None:
    """Add what `rounded` found of a channel's next values to its sums [6].

    The differences are from the mean so far, or nearly, so that their squares lose no digits
    (Chan, Golub and LeVeque 1979, equations 1.7 and 2.1).
    """
    rest, squared, squared_error, largest_error, low, high = found
    correction = np.float64(rest) / num
    delta = np.float64(shift) + correction - sums[0]
    share = num / (num_before + num)
    sums[0] += delta * share
    m2 = np.float64(squared) - correction * np.float64(rest)
    sums[1] += max(m2, 0.0) + delta * delta * num_before * share
    sums[2] = min(sums[2], np.float64(low))
    sums[3] = max(sums[3], np.float64(high))
    sums[4] += np.float64(squared_error)
    sums[5] = max(sums[5], np.float64(largest_error))


@_compiled
def _round_few(
    source: Any, first: int, num: int, tile: Any, place: int, sums: Any, num_before: int
) -> None:
    """Round and add fewer values than a vector has, filled up by what changes no sum."""
    lanes = np.empty(LANES, np.float32)
    lanes[:] = source[first]
    filling = rounded(lanes, 0, 1, tile, place, _F(0), 0)[4]  # the first value, rounded
    lanes[:num] = source[first : first + num]
    lanes[num:] = filling
    found = rounded(lanes, 0, 1, tile, place, filling, 0)
    _add(sums, num_before, num, filling, found)


@_compiled
def _round_row(
    source: Any, first: int, num: int, tile: Any, place: int, sums: Any, num_before: int,
    ahead: int,
) -> None:  # fmt: skip
    """Round a channel's next values to the tile, and add them to its sums."""
    whole = num // LANES * LANES
    if whole:
        shift = _F(sums[0]) if num_before else source[first]
        if tile.itemsize == 2:  # hardly a difference of halves has to be rounded
            shift = shortened(shift)
        found = rounded(source, first, whole // LANES, tile, place, shift, ahead)
        _add(sums, num_before, whole, shift, found)
    if whole < num:
        _round_few(
            source, first + whole, num - whole, tile, place + whole, sums, num_before + whole
        )


@_compiled
def _copy(tile: Any, stored: Any, rows: Any, positions: Any, at: int, stride: int) -> None:
    """Transpose value by value."""
    for position in range(*positions):
        for row in range(*rows):
            stored[at + position * stride + row] = tile[row * _PITCH + position]


@_compiled
def _store(source: Any, stored: Any, num_channels: int, num_positions: int, sums: Any) -> None:
    tile = np.empty(_CHANNELS * _PITCH, stored.dtype)
    for channel in range(0, num_channels, _CHANNELS):
        num_rows = min(_CHANNELS, num_channels - channel)
        for first in range(0, num_positions, _POSITIONS):
            num = min(_POSITIONS, num_positions - first)
            for row in range(num_rows):
                begin = (channel + row) * num_positions + first
                _round_row(
                    source, begin, num, tile, row * _PITCH, sums[channel + row], first,
                    num_positions,
                )  # fmt: skip
            at = first * num_channels + channel
            rows = positions = 0
            if stored.itemsize == 2:
                rows, positions = num_rows // ROWS * ROWS, num // RUN * RUN
                for position in range(0, positions, RUN):
                    for row in range(0, rows, ROWS):
                        transposed(
                            tile, row * _PITCH + position, _PITCH,
                            stored, at + position * num_channels + row, num_channels,
                        )  # fmt: skip
            _copy(tile, stored, (0, rows), (positions, num), at, num_channels)
            _copy(tile, stored, (rows, num_rows), (0, num), at, num_channels)


def store_map(computed: NDArray[Any], stored: NDArray[Any]) -> NDArray[Any]:
    """Fill `stored` [n, C], float16 or float32, from `computed` float32 [C, n]; return its sums.

    They are float64 [6, C]: the mean, the sum of squared differences from it, minimum, maximum, and
    the cast's squared and largest error. A value that float16 cannot hold, an infinite one and NaN
    show as a mean that is not finite.
    """
    num_channels, num_positions = computed.shape
    sums = np.zeros((num_channels, 6))
    sums[:, 2], sums[:, 3] = np.inf, -np.inf
    raw = stored.view(np.uint16) if stored.dtype == np.float16 else stored
    _store(computed.reshape(-1), raw.reshape(-1), num_channels, num_positions, sums)
    return sums.T
