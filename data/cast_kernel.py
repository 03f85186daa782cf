"""What storing a map takes of arithmetic, in one pass over it, compiled by Numba.

A map comes channel by channel and leaves position by position. The pass takes a few channels and a
thousand positions at a time, so that all but the first reading and the last writing happens in the
processor's cache; what torch and NumPy do in a dozen passes costs three times as much.

Importing Numba takes a while: import this late.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from data.compiled import compiled

_CHANNELS = 64  # 128 bytes of halves at a position: two cache lines, which are fetched together
_POSITIONS = 1024
_F, _I = np.float32, np.int32
_LOWER_31 = _I(0x7FFFFFFF)

_in_place: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic


@_in_place
def _int_of(typing: Any, value: Any) -> Any:
    """The bits of a float32 as int32."""
    return types.int32(types.float32), lambda _, builder, __, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


@_in_place
def _float_of(typing: Any, value: Any) -> Any:
    """The float32 of such bits."""
    return types.float32(types.int32), lambda _, builder, __, given: builder.bitcast(
        given[0], ir.FloatType()
    )


@_in_place
def _half_of(typing: Any, value: Any) -> Any:
    """The bits of the float16 nearest to a float32; an instruction of the processor."""
    return types.uint16(types.float32), lambda _, builder, __, given: builder.bitcast(
        builder.fptrunc(given[0], ir.HalfType()), ir.IntType(16)
    )


@_in_place
def _from_half(typing: Any, value: Any) -> Any:
    """The float32 of a float16's bits."""
    return types.float32(types.uint16), lambda _, builder, __, given: builder.fpext(
        builder.bitcast(given[0], ir.HalfType()), ir.FloatType()
    )


def _to_halves(source: Any, halves: Any, rounded: Any) -> None:
    """Write the bits of the float16 nearest to each value, and its value."""
    for i in range(len(source)):
        half = _half_of(source[i])
        halves[i] = half
        rounded[i] = _from_half(half)


def _to_halves_by_bits(source: Any, halves: Any, rounded: Any) -> None:
    """Do the same with whole numbers, ties to even (Giesen, float_to_half_fast3_rtne)."""
    for i in range(len(source)):
        bits = _int_of(source[i])
        magnitude = bits & _LOWER_31
        sign = bits ^ magnitude
        nearest = (magnitude + _I(0xFFF) + ((magnitude >> _I(13)) & _I(1))) & _I(-0x2000)
        half = (nearest - _I(112 << 23)) >> _I(13)
        # Added to a half, the processor rounds what is below float16's normal numbers.
        lifted = _float_of(magnitude) + _F(0.5)
        is_small, is_large = magnitude < _I(113 << 23), nearest >= _I(143 << 23)
        if is_small:
            half, nearest = _int_of(lifted) - _I(126 << 23), _int_of(lifted - _F(0.5))
        if is_large:  # infinite and NaN too
            half, nearest = _I(0x7C00), _I(0x7F800000)
        halves[i] = np.uint16(half | ((sign >> _I(16)) & _I(0x8000)))
        rounded[i] = _float_of(nearest | sign)


def _has_half_instructions() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine() in ("aarch64", "arm64")
    return bool(binding.get_host_cpu_features().get("f16c", False))


_compiled = partial(compiled, error_model="numpy")
# Sums may be taken in any order, as vectors take them; nothing else may be rearranged.
_compiled_sum = partial(_compiled, fastmath={"reassoc", "contract", "nsz"})
_round = _compiled(_to_halves if _has_half_instructions() else _to_halves_by_bits)


@_compiled
def _copy(source: Any, tile: Any, rounded: Any) -> None:
    for i in range(len(source)):
        tile[i] = rounded[i] = source[i]


@_compiled_sum
def _sums(values: Any, source: Any) -> Any:
    """Return the sum of the values, their squared error, and the largest error's bits.

    Here and below `_I` keeps Numba from going on in 64 bits, of which a vector holds half as many.
    """
    total, squared, largest = _F(0), _F(0), _I(0)
    for i in range(len(source)):
        error = values[i] - source[i]
        total += values[i]
        squared += error * error
        largest = max(largest, _I(_int_of(error) & _LOWER_31))
    return total, squared, largest


@_compiled_sum
def _deviations(values: Any, mean: Any) -> Any:
    """Return the sums of the differences from `mean` and of their squares."""
    rest, squared = _F(0), _F(0)
    for i in range(len(values)):
        deviation = values[i] - mean
        rest += deviation
        squared += deviation * deviation
    return rest, squared


@_compiled
def _extremes(values: Any) -> Any:
    """Return the least and the greatest value; whole numbers in their order are faster, and NaN
    is an extreme too."""
    low, high = _I(0x7FFFFFFF), _I(-0x80000000)
    for i in range(len(values)):
        bits = _int_of(values[i])
        key = _I(bits ^ _I(_I(bits >> _I(31)) & _LOWER_31))
        low, high = min(low, key), max(high, key)
    return (
        _float_of(low ^ ((low >> _I(31)) & _LOWER_31)),
        _float_of(high ^ ((high >> _I(31)) & _LOWER_31)),
    )


@_compiled
def _add(sums: Any, num_before: int, values: Any, source: Any) -> None:
    """Add values of a channel to its sums [6] (Chan, Golub and LeVeque 1979, equation 2.1)."""
    num = len(source)
    total, squared, largest = _sums(values, source)
    mean = total / _F(num)
    rest, m2 = _deviations(values, mean)
    low, high = _extremes(values)
    # The rounding of the mean shows in the sum of differences, which would be 0 (equation 1.7).
    correction = np.float64(rest) / num
    delta = np.float64(mean) + correction - sums[0]
    share = num / (num_before + num)
    sums[0] += delta * share
    sums[1] += np.float64(m2) - correction * np.float64(rest) + delta * delta * num_before * share
    sums[2] = min(sums[2], np.float64(low))
    sums[3] = max(sums[3], np.float64(high))
    sums[4] += np.float64(squared)
    sums[5] = max(sums[5], np.float64(_float_of(largest)))


@_compiled
def _four_in_one(tile: Any, packed: Any, num: int) -> None:
    """Put four channels' halves into one word, position by position."""
    for group in range(len(tile) // 4):
        one, two = tile[4 * group], tile[4 * group + 1]
        three, four = tile[4 * group + 2], tile[4 * group + 3]
        words = packed[group]
        for i in range(num):
            words[i] = (
                np.uint64(one[i])
                | (np.uint64(two[i]) << np.uint64(16))
                | (np.uint64(three[i]) << np.uint64(32))
                | (np.uint64(four[i]) << np.uint64(48))
            )


@_compiled
def _transpose(tile: Any, stored: Any, first_column: int) -> None:
    for i in range(len(stored)):
        for j in range(len(tile)):
            stored[i, first_column + j] = tile[j, i]


@_compiled
def _store(source: Any, stored: Any, words: Any, sums: Any) -> None:
    num_channels, num_positions = source.shape
    is_half = stored.itemsize == 2
    tile = np.empty((_CHANNELS, _POSITIONS), stored.dtype)
    packed = np.empty((_CHANNELS // 4, _POSITIONS), np.uint64)
    rounded = np.empty(_POSITIONS, np.float32)
    for channel in range(0, num_channels, _CHANNELS):
        num_rows = min(_CHANNELS, num_channels - channel)
        for first in range(0, num_positions, _POSITIONS):
            last = min(first + _POSITIONS, num_positions)
            values = rounded[: last - first]
            for row in range(num_rows):
                given = source[channel + row, first:last]
                if is_half:
                    _round(given, tile[row], values)
                else:
                    _copy(given, tile[row], values)
                _add(sums[channel + row], first, values, given)
            if len(words):
                _four_in_one(tile[:num_rows], packed, last - first)
                _transpose(packed[: num_rows // 4], words[first:last], channel // 4)
            else:
                _transpose(tile[:num_rows], stored[first:last], channel)


def store_map(computed: NDArray[Any], stored: NDArray[Any]) -> NDArray[Any]:
    """Fill `stored` [n, C], float16 or float32, from `computed` float32 [C, n]; return its sums.

    They are float64 [6, C]: the mean, the sum of squared differences from it, minimum, maximum, and
    the cast's squared and largest error. A value that float16 cannot hold, an infinite
    one and NaN show as a minimum or maximum that is not finite.
    """
    num_channels = len(computed)
    sums = np.zeros((num_channels, 6))
    sums[:, 2], sums[:, 3] = np.inf, -np.inf
    raw = stored.view(np.uint16) if stored.dtype == np.float16 else stored
    fours = raw.dtype == np.uint16 and num_channels % 4 == 0
    words = raw.view(np.uint64) if fours else np.empty((0, 0), np.uint64)
    _store(computed, raw, words, sums)
    return sums.T
