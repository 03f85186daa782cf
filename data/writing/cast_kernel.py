"""What storing a map takes beside its cast, which torch does: its statistics, and transposing it.

The loops are plain ones of which LLVM makes vectors. Importing Numba takes a while: import this
late.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.system.compiled_loops import compiled

_F, _D, _I, _WORD = np.float32, np.float64, np.int32, np.uint64
_MAGNITUDE = _I(0x7FFFFFFF)
PIECE = 1024  # values: 4 KiB each of what is stored and computed stay in the fastest cache
WORDS = 8  # of four channels: 64 bytes of halves, which the processor's memory takes at once

_compiled = partial(compiled, error_model="numpy")
# LLVM makes vectors of a sum only if it may choose its order. NaN and infinity stay what they are.
_compiled_sum = partial(_compiled, fastmath={"reassoc", "contract"})


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
def _sum_up_channel(stored: Any, computed: Any, sums: Any, extremes: Any) -> None:
    """Fill mean, squared differences from it and squared error; least, greatest, largest error.

    The differences are first taken from one of the values, so that their squares lose no digits
    (Chan, Golub and LeVeque 1979, equation 1.7). A piece is so short that its sums may be float32,
    each of many lanes; what pieces add up to is float64.
    """
    shift = stored[0]
    total = squared = squared_error = _D(0)
    low = high = _in_order(stored.view(_I)[0])
    largest_error = _I(0)
    for first in range(0, stored.size, PIECE):
        ours, theirs = stored[first : first + PIECE], computed[first : first + PIECE]
        one, two, three = _add_up(ours, theirs, shift)
        total, squared, squared_error = total + one, squared + two, squared_error + three
        least, greatest, error = _find_extremes(ours, theirs)
        low, high, largest_error = min(low, least), max(high, greatest), max(largest_error, error)
    correction = total / stored.size
    sums[0], sums[1] = _D(shift) + correction, max(squared - correction * total, 0.0)
    sums[2] = squared_error
    extremes[0], extremes[1], extremes[2] = _in_order(low), _in_order(high), largest_error


@_compiled
def _sum_up(stored: Any, computed: Any, sums: Any, extremes: Any) -> None:
    for channel in range(len(stored)):
        _sum_up_channel(stored[channel], computed[channel], sums[channel], extremes[channel])


def channel_sums(stored: NDArray[Any], computed: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum up float32 [C, n] as it is stored, and as it was computed.

    Returns float64 [C, 3], the mean, the sum of squared differences from it and the cast's squared
    error; and float32 [C, 3], minimum, maximum and the cast's largest error. A value that is not
    finite shows as a mean that is not.
    """
    sums = np.empty((len(stored), 3))
    extremes = np.empty((len(stored), 3), _F)
    _sum_up(stored, computed, sums, extremes.view(_I))
    return sums, extremes


@_compiled
def _transpose_fours(rows: Any, words: Any, joined: Any) -> None:
    """Copy uint16 [C, n] to uint64 [n, C / 4]."""
    num_words, num_positions = len(rows) // 4, rows.shape[1]
    for first in range(0, num_words, WORDS):
        num = min(WORDS, num_words - first)
        for word in range(num):
            row = 4 * (first + word)
            a, b, c, d = rows[row], rows[row + 1], rows[row + 2], rows[row + 3]
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
                    words[position, first + word] = joined[word, position]
            continue
        for position in range(num_positions):
            for word in range(num):
                words[position, first + word] = joined[word, position]


def transpose_halves(rows: NDArray[Any], columns: NDArray[Any], joined: NDArray[Any]) -> None:
    """Copy float16 [C, n] to [n, C]; C is a multiple of four. `joined`: memory, int64 [WORDS, n].

    Four values are moved as one, which takes a fifth of the time.
    """
    _transpose_fours(rows.view(np.uint16), columns.view(_WORD), joined.view(_WORD))
