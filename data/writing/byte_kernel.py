"""Store a map in 8 bits in one call: take each value to its channel's nearest byte, sum it up.

Plain loops, as those that cast to float16. Importing Numba takes a while: import this late.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.coding.byte_code import GREATEST_BYTE, ByteCode
from data.system.compiled_loops import compiled
from data.writing.cast_kernel import PIECE, begin, finish, fold, places_for_sums

_F, _BYTE = np.float32, np.uint8
# What is added to this is rounded to whole numbers, ties to even: its last place is that of 1.
_WHOLE = _F(1.5 * 2**23)
_GREATEST = _F(GREATEST_BYTE)

_compiled = partial(compiled, error_model="numpy")


@_compiled
def _nearest_bytes(computed: Any, scale: Any, offset: Any, stored: Any, values: Any) -> Any:
    """Fill a piece's bytes and the values that they stand for; return how many were clipped.

    NaN and infinity become some byte: the error of the value tells of them.
    """
    num_clipped: Any = 0
    for i in range(computed.size):
        steps = _F(_F(computed[i] - offset) / scale)
        steps = steps if steps > _F(-1) else _F(-1)
        steps = steps if steps < _F(_GREATEST + _F(1)) else _F(_GREATEST + _F(1))
        whole = _F(_F(steps + _WHOLE) - _WHOLE)
        num_clipped += (whole < _F(0)) | (whole > _GREATEST)
        whole = whole if whole > _F(0) else _F(0)
        whole = whole if whole < _GREATEST else _GREATEST
        stored[i] = _BYTE(whole)
        values[i] = _F(_F(whole * scale) + offset)
    return num_clipped


@_compiled
def _store_channel(
    computed: Any, scale: Any, offset: Any, stored: Any, piece: Any, sums: Any, extremes: Any
) -> Any:
    """Fill a channel's bytes and its sums (see `channel_sums`); return how many were clipped."""
    num_clipped: Any = 0
    shift = _F(0)
    for first in range(0, computed.size, PIECE):
        theirs = computed[first : first + PIECE]
        ours = piece[: theirs.size]
        num_clipped += _nearest_bytes(theirs, scale, offset, stored[first : first + PIECE], ours)
        if first == 0:
            shift = begin(ours, sums, extremes)
        fold(ours, theirs, shift, sums, extremes)
    finish(computed.size, shift, sums, extremes)
    return num_clipped


@_compiled
def _store_bytes(
    computed: Any, scales: Any, offsets: Any, stored: Any, sums: Any, extremes: Any, clipped: Any
) -> None:
    piece = np.empty(PIECE, _F)
    for channel in range(len(computed)):
        clipped[channel] = _store_channel(
            computed[channel], scales[channel], offsets[channel], stored[channel], piece,
            sums[channel], extremes[channel],
        )  # fmt: skip


def store_bytes(
    computed: NDArray[Any], code: ByteCode, stored: NDArray[Any], memory: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Take float32 [C, n] to `stored`, uint8 [n, C]; return sums of the values that it stands for.

    `memory` is uint8 [C, n]. The sums are `channel_sums`' two arrays; the third one, int64 [C],
    counts the values that lay beyond the code's first or last by more than half a step.
    """
    num_channels = len(computed)
    sums, extremes = places_for_sums(num_channels)
    clipped = np.empty(num_channels, np.int64)
    _store_bytes(
        computed, code.scales, code.offsets, memory, sums, extremes.view(np.int32), clipped
    )
    np.copyto(stored, memory.T)
    return sums, extremes, clipped
