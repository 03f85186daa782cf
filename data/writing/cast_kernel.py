"""Store a map in one call: cast it to float16, sum it up, lay it out channels last.

The loops are plain ones of which LLVM makes vectors. Importing Numba takes a while: import this
late.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.system.compiled_loops import compiled

_F, _D, _I, _U, _HALF, _WORD = np.float32, np.float64, np.int32, np.uint32, np.uint16, np.uint64
_MAGNITUDE = _I(0x7FFFFFFF)
PIECE = 1024  # values: 4 KiB each of what is stored and computed stay in the fastest cache
WORDS = 8  # of four channels: 64 bytes of halves, which the processor's memory takes at once
CHANNELS = 4 * WORDS  # cast before they are laid out: a map's halves stay in the second cache

_compiled = partial(compiled, error_model="numpy")
# LLVM makes vectors of a sum only if it may choose its order. NaN and infinity stay what they are.
_compiled_sum = partial(_compiled, fastmath={"reassoc", "contract"})


@_compiled
def _cast(computed: Any, stored: Any, halves: Any) -> None:
    """Fill float16's bits, uint16, and the values that they stand for, float32, of a piece.

    Rounded to the nearest, ties to even, as IEEE 754 has it: among float16's normal numbers by
    integers, below them by the sum with 0.5, whose last place is that of float16's smallest.
    """
    computed_bits, stored_bits = computed.view(_U), stored.view(_U)
    for i in range(computed.size):
        bits = computed_bits[i]
        size = _U(bits & _U(0x7FFFFFFF))
        is_odd = _U(_U(size >> _U(13)) & _U(1))
        normal = _U(_U(size + _U(0xFFF) + is_odd) & _U(0xFFFFE000))
        sum_with_half = _F(size.view(_F) + _F(0.5))
        is_small = size < _U(0x38800000)  # 2**-14, the least normal number
        nearest = _F(sum_with_half - _F(0.5)).view(_U) if is_small else normal
        half = (
            _U(sum_with_half.view(_U) - _U(0x3F000000))
            if is_small
            else _U(_U(normal - _U(0x38000000)) >> _U(13))
        )
        # Beyond 65504 all is infinity or NaN, and refused by its mean: the half does not matter.
        nearest = nearest if nearest <= _U(0x477FE000) else _U(nearest | _U(0x7F800000))
        sign = _U(bits & _U(0x80000000))
        stored_bits[i] = nearest | sign
        halves[i] = _HALF(half | _U(sign >> _U(16)))


@_compiled
def _in_order(bits: Any) -> Any:
    """Return integers in the order of the floats that have these bits; its own inverse."""
    return _I(bits ^ _I(_I(bits >> _I(31)) & _MAGNITUDE))


@_compiled_sum
def _add_up(stored: Any, computed: Any, shift: Any) -> tuple[Any, Any, Any]:
    """Return sums over a piece: differences from `shift`, their squares, squares of errors."""
    total = squared = squared_error = _F(0)
    for i in range(stored.size):
        away = stored[i] - shift
        error = stored[i] - computed[i]
        total += away
        squared += away * away
        squared_error += error * error
    return total, squared, squared_error


@_compiled
def _find_extremes(stored: Any, computed: Any) -> tuple[Any, Any, Any]:
    """Return a piece's least and greatest value, in order, and the bits of its largest error.

    LLVM makes vectors of the least of integers, but not of floats, which may be NaN.
    """
    bits = stored.view(_I)
    low = high = _in_order(bits[0])
    largest_error = _I(0)
    for i in range(stored.size):
        value = _in_order(bits[i])
        low, high = min(low, value), max(high, value)
        error = _F(stored[i] - computed[i])
        largest_error = max(largest_error, _I(error.view(_I) & _MAGNITUDE))
    return low, high, largest_error


@_compiled
def begin(stored: Any, sums: Any, extremes: Any) -> Any:
    """Make ready what a channel's pieces are folded into; return the shift, one of its values."""
    sums[:] = _D(0)
    extremes[0] = extremes[1] = _in_order(stored.view(_I)[0])
    extremes[2] = _I(0)
    return stored[0]


@_compiled
def fold(stored: Any, computed: Any, shift: Any, sums: Any, extremes: Any) -> None:
    """Add a piece to a channel's sums and extremes.

    The differences are taken from one of the values, so that their squares lose no digits (Chan,
    Golub and LeVeque 1979, equation 1.7). A piece is so short that its sums may be float32, each of
    many lanes; what pieces add up to is float64.
    """
    total, squared, squared_error = _add_up(stored, computed, shift)
    sums[0], sums[1], sums[2] = sums[0] + total, sums[1] + squared, sums[2] + squared_error
    least, greatest, error = _find_extremes(stored, computed)
    extremes[0], extremes[1] = min(extremes[0], least), max(extremes[1], greatest)
    extremes[2] = max(extremes[2], error)


@_compiled
def finish(num_values: Any, shift: Any, sums: Any, extremes: Any) -> None:
    """Make of what was folded mean, squared differences from it and squared error; and floats."""
    total, squared = sums[0], sums[1]
    correction = total / num_values
    sums[0], sums[1] = _D(shift) + correction, max(squared - correction * total, 0.0)
    extremes[0], extremes[1] = _in_order(extremes[0]), _in_order(extremes[1])


@_compiled
def _sum_up_channel(computed: Any, halves: Any, piece: Any, sums: Any, extremes: Any) -> None:
    """Fill a channel's sums and extremes (see `channel_sums`).

    Of float32 as it is, or where there is room for `halves`, of what they stand for.
    """
    shift = _F(0)
    for first in range(0, computed.size, PIECE):
        theirs = computed[first : first + PIECE]
        ours = theirs
        if halves.size:
            ours = piece[: theirs.size]
            _cast(theirs, ours, halves[first : first + PIECE])
        if first == 0:
            shift = begin(ours, sums, extremes)
        fold(ours, theirs, shift, sums, extremes)
    finish(computed.size, shift, sums, extremes)


@_compiled
def _lay_out(halves: Any, words: Any, joined: Any) -> None:
    """Copy uint16 [4 num, n] to uint64 [n, num], num <= WORDS: four values are moved as one."""
    num, num_positions = len(halves) // 4, len(words)
    for word in range(num):
        a, b, c, d = (
            halves[4 * word],
            halves[4 * word + 1],
            halves[4 * word + 2],
            halves[4 * word + 3],
        )
        to = joined[word]
        for position in range(num_positions):
            # Little-endian, as the caches are: the first channel's bytes are the lowest.
            to[position] = (
                _WORD(a[position])
                | _WORD(b[position]) << _WORD(16)
                | _WORD(c[position]) << _WORD(32)
                | _WORD(d[position]) << _WORD(48)
            )
    if num == WORDS:  # a number that is known when it is compiled
        for position in range(num_positions):
            for word in range(WORDS):
                words[position, word] = joined[word, position]
        return
    for position in range(num_positions):
        for word in range(num):
            words[position, word] = joined[word, position]


@_compiled
def _store_halves(
    computed: Any, words: Any, halves: Any, joined: Any, sums: Any, extremes: Any
) -> None:
    piece = np.empty(PIECE, _F)
    for first in range(0, len(computed), CHANNELS):
        after = min(first + CHANNELS, len(computed))
        for channel in range(first, after):
            _sum_up_channel(
                computed[channel], halves[channel - first], piece, sums[channel], extremes[channel]
            )
        num_words = (after - first + 3) // 4
        _lay_out(halves[: 4 * num_words], words[:, first // 4 : first // 4 + num_words], joined)


@_compiled
def _sum_up(computed: Any, sums: Any, extremes: Any) -> None:
    nothing, none_stored = np.empty(0, _HALF), np.empty(0, _F)
    for channel in range(len(computed)):
        _sum_up_channel(computed[channel], nothing, none_stored, sums[channel], extremes[channel])


def store_halves(
    computed: NDArray[Any], stored: NDArray[Any], halves: NDArray[Any], joined: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cast float32 [C, n] to `stored`, float16 [n, C], and return sums of what it holds.

    Its rows are whole words of four values; of those beyond C there may be any. `halves` and
    `joined` are memory: float16 [CHANNELS, n] and int64 [WORDS, n]. The sums are `channel_sums`'.
    """
    sums, extremes = places_for_sums(len(computed))
    _store_halves(
        computed, stored.view(_WORD), halves.view(_HALF), joined.view(_WORD), sums,
        extremes.view(_I),
    )  # fmt: skip
    return sums, extremes


def channel_sums(computed: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum up float32 [C, n] that is stored as it is.

    Returns float64 [C, 3], the mean, the sum of squared differences from it and the cast's squared
    error; and float32 [C, 3], minimum, maximum and the cast's largest error. A value that is not
    finite shows as a mean that is not.
    """
    sums, extremes = places_for_sums(len(computed))
    _sum_up(computed, sums, extremes.view(_I))
    return sums, extremes


def places_for_sums(num_channels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return memory for what `channel_sums` returns."""
    return np.empty((num_channels, 3)), np.empty((num_channels, 3), _F)
