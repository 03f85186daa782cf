"""Range asymmetric numeral systems (Duda, arXiv:1311.2540): whole numbers to few bytes and back.

One state of 32 bits, moved byte by byte, over tables of 16 bits (Giesen's `rans_byte`). Against
CompressAI's coder (64 bits, moved 32 at a time) it begins at state 1 instead of the least full
state, so a string costs one byte more than its symbols and not eight. The decoder, ending, must
find that 1 and no byte left; so little redundancy notices most alterations, not all: files need a
checksum. It reads no byte outside its string and ends for any string.

The loops are compiled by Numba, when first used, and kept compiled in the user's cache folder.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.system.compiled_loops import compiled

PRECISION_BITS = 16
MAX_SYMBOL = 2**30
"""Largest magnitude of a symbol."""

_FULL = 2**24  # the state is at least this once there were enough symbols
_MOST_BYTES_PER_SYMBOL = 8  # 16 bits for the escape's entry, 4 for each of up to 10 digits
_MOST_DIGITS = 9  # of 4 bits each; 2 (2 MAX_SYMBOL) + 1 has no more

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Flat tables, int32 each: all cumulative frequencies, and of each table where it begins, how many
entries it has (the last is 2^16), and its first symbol. The last frequency is the escape's."""


def encode(symbols: NDArray[Any], indexes: NDArray[Any], tables: Arrays) -> bytes:
    """Return the bytes of `symbols` int32 [n], of at most MAX_SYMBOL each.

    `indexes` int32 [n] is each symbol's table. A symbol that its table does not hold is coded as
    the escape and, in digits of 4 bits, its distance from the table.
    """
    room = np.empty(_MOST_BYTES_PER_SYMBOL * len(symbols) + 8, dtype=np.uint8)
    first = _compiled(_encode)(symbols, indexes, *tables, room)
    return room[first:].tobytes()


class Decoder:
    """Decodes one string, in as many pieces as the caller likes."""

    def __init__(self, string: bytes) -> None:
        self._bytes: NDArray[Any] = np.frombuffer(string, dtype=np.uint8)
        # The state and the position of the next byte.
        self._state: NDArray[Any] = np.zeros(2, dtype=np.int64)

    def next(self, indexes: NDArray[Any], tables: Arrays) -> NDArray[Any]:
        """Return the next symbols, int32 [n]; ValueError for a string that nobody encoded."""
        symbols: NDArray[Any] = np.empty(len(indexes), dtype=np.int32)
        if not _compiled(_decode)(self._bytes, self._state, indexes, *tables, symbols):
            raise ValueError("it holds a number that no encoder writes")
        return symbols

    def finish(self) -> None:
        """Raise ValueError unless the string ends here, as it does after its last symbol."""
        state, position = self._state.tolist()
        if state != 1 or position != len(self._bytes):
            raise ValueError("its symbols do not end where its bytes do")


_compiled = functools.cache(compiled)


def _encode(
    symbols: Any, indexes: Any, cdfs: Any, starts: Any, lengths: Any, offsets: Any, room: Any
) -> int:
    """Fill `room` from its end, last symbol first; return where the bytes begin."""
    position = len(room)
    state = np.int64(1)
    for number in range(len(symbols) - 1, -1, -1):
        table = indexes[number]
        escape = lengths[table] - 2
        entry = np.int64(symbols[number]) - offsets[table]
        distance = np.int64(-1)
        if entry < 0:
            distance = -2 * entry - 1
        elif entry >= escape:
            distance = 2 * (entry - escape)
        if distance >= 0:
            entry = np.int64(escape)
            num_digits = 0
            while distance >> (4 * num_digits) > 0:
                num_digits += 1
            for digit in range(num_digits, -1, -1):
                # The decoder reads their number first, then the lowest digit.
                value = (distance >> (4 * (digit - 1))) & 15 if digit > 0 else num_digits
                if state >= 1 << 28:
                    position -= 1
                    room[position] = state & 255
                    state >>= 8
                state = ((state >> 12) << 16) + (state & 4095) + (value << 12)
        start = np.int64(cdfs[starts[table] + entry])
        frequency = np.int64(cdfs[starts[table] + entry + 1]) - start
        while state >= frequency << 16:
            position -= 1
            room[position] = state & 255
            state >>= 8
        state = ((state // frequency) << 16) + state % frequency + start
    while state > 0:
        position -= 1
        room[position] = state & 255
        state >>= 8
    return position


def _decode(
    string: Any, kept: Any, indexes: Any, cdfs: Any, starts: Any, lengths: Any, offsets: Any,
    symbols: Any,
) -> bool:  # fmt: skip
    """Fill `symbols` and go on from, and leave, `kept`; False for an impossible escape."""
    state, position = kept[0], kept[1]
    for number in range(len(indexes)):
        while state < _FULL and position < len(string):
            state = (state << 8) | string[position]
            position += 1
        table = indexes[number]
        slot = state & 65535
        low, high = starts[table], starts[table] + lengths[table] - 1
        while high - low > 1:
            middle = (low + high) >> 1
            if cdfs[middle] <= slot:
                low = middle
            else:
                high = middle
        start = np.int64(cdfs[low])
        state = (np.int64(cdfs[low + 1]) - start) * (state >> 16) + slot - start
        symbol = np.int64(low - starts[table]) + offsets[table]
        if low - starts[table] == lengths[table] - 2:
            distance = np.int64(0)
            num_digits = np.int64(0)
            digit = np.int64(0)
            while digit <= num_digits:
                while state < _FULL and position < len(string):
                    state = (state << 8) | string[position]
                    position += 1
                value = (state & 65535) >> 12
                state = ((state >> 16) << 12) + (state & 4095)
                if digit == 0:
                    num_digits = value
                    if num_digits > _MOST_DIGITS:
                        return False
                else:
                    if value == 0 and digit == num_digits:
                        return False  # the encoder begins with the first digit that is not 0
                    distance |= value << (4 * (digit - 1))
                digit += 1
            if distance & 1:
                symbol = offsets[table] - ((distance + 1) >> 1)
            else:
                symbol += distance >> 1
            if symbol > MAX_SYMBOL or symbol < -MAX_SYMBOL:
                return False
        symbols[number] = symbol
    while state < _FULL and position < len(string):
        state = (state << 8) | string[position]
        position += 1
    kept[0], kept[1] = state, position
    return True
