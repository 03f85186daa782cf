"""Rounding to float16 and summing up, and transposing: intrinsics that Numba's loops call.

LLVM makes no vectors of a loop that rounds, stores and sums up at once, and a loop for each of
these reads the values again and again. These say outright what is done with which values.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from data.system.compiled_loops import LANES
from data.system.vectors import VECTOR, address, constant, everywhere, folded, prefetch

ROWS, RUN = 8, 32
"""Channels and positions that `transposed` takes at once."""

_in_place: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic
_new_slot: Callable[..., Any] = cgutils.alloca_once_value  # LLVM keeps it in a register

_INT, _SHORT = ir.IntType(32), ir.IntType(16)
_INTS, _SHORTS = ir.VectorType(_INT, LANES), ir.VectorType(_SHORT, LANES)
_FUSED = ("contract",)  # a product and a sum may become one instruction


def _unchanged(builder: Any, values: Any) -> tuple[Any, Any]:
    """Return what is stored of float32 values as float32, and the value of that."""
    return values, values


def to_half(builder: Any, values: Any) -> tuple[Any, Any]:
    """Return the bits of the nearest float16, and their values; instructions of the processor."""
    halves = builder.fptrunc(values, ir.VectorType(ir.HalfType(), LANES))
    return builder.bitcast(halves, _SHORTS), builder.fpext(halves, VECTOR)


def to_half_by_bits(builder: Any, values: Any) -> tuple[Any, Any]:
    """Return the same by whole numbers, ties to even (Giesen, float_to_half_fast3_rtne)."""
    b = builder
    bits = b.bitcast(values, _INTS)
    magnitude = b.and_(bits, constant(_INTS, 0x7FFFFFFF))
    sign = b.xor(bits, magnitude)
    is_odd = b.and_(b.lshr(magnitude, constant(_INTS, 13)), constant(_INTS, 1))
    nearest = b.add(b.add(magnitude, constant(_INTS, 0xFFF)), is_odd)
    nearest = b.and_(nearest, constant(_INTS, -0x2000))
    half = b.lshr(b.sub(nearest, constant(_INTS, 112 << 23)), constant(_INTS, 13))
    # Added to a half, the processor rounds what is below float16's normal numbers.
    lifted = b.fadd(b.bitcast(magnitude, VECTOR), constant(VECTOR, 0.5))
    is_small = b.icmp_signed("<", magnitude, constant(_INTS, 113 << 23))
    small = b.bitcast(b.fsub(lifted, constant(VECTOR, 0.5)), _INTS)
    small_half = b.sub(b.bitcast(lifted, _INTS), constant(_INTS, 126 << 23))
    half, nearest = b.select(is_small, small_half, half), b.select(is_small, small, nearest)
    # Infinite and NaN too, which may have become a negative number above.
    is_large = b.icmp_unsigned(">=", nearest, constant(_INTS, 143 << 23))
    half = b.select(is_large, constant(_INTS, 0x7C00), half)
    nearest = b.select(is_large, constant(_INTS, 0x7F800000), nearest)
    half = b.or_(half, b.lshr(sign, constant(_INTS, 16)))
    return b.trunc(half, _SHORTS), b.bitcast(b.or_(nearest, sign), VECTOR)


def _has_half_instructions() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine() in ("aarch64", "arm64")
    return bool(binding.get_host_cpu_features().get("f16c", False))


def _plus(builder: Any, one: Any, other: Any) -> Any:
    return builder.fadd(one, other)


def _smaller(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", one, other), one, other)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def rounding(to_stored: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    """Return f(source, first, num, stored, place, shift, ahead) that rounds values by `to_stored`.

    Reads `num` vectors from source[first] on, writes them to stored[place] on (flat arrays; float32
    is stored as it is), and returns six float32: the sums of the differences from `shift` and of
    their squares, the sum of the squared errors, the largest error, the least and the greatest
    value. A value that is not finite shows in the first. Meanwhile has source[first + ahead] on
    brought to the cache.
    """

    def typed(
        typing: Any, source: Any, first: Any, num: Any, stored: Any, place: Any, shift: Any,
        ahead: Any,
    ) -> Any:  # fmt: skip
        as_stored = to_stored if stored.dtype == types.uint16 else _unchanged

        def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
            source, first, num, stored, place, shift, ahead = given
            from_type, to_type = signature.args[0], signature.args[3]
            shifts = everywhere(builder, shift)
            combined = (_plus, _plus, _plus, _larger, _smaller, _larger)
            begin = (0.0, 0.0, 0.0, 0.0, float("inf"), float("-inf"))
            slots = [_new_slot(builder, constant(VECTOR, x)) for x in begin]
            with cgutils.for_range(builder, num) as loop:
                step = builder.mul(loop.index, ir.Constant(ir.IntType(64), LANES))
                at = builder.add(first, step)
                values = builder.load(address(context, builder, from_type, source, at), align=4)
                later = address(context, builder, from_type, source, builder.add(at, ahead))
                prefetch(builder, later)
                kept, nearest = as_stored(builder, values)
                to = address(context, builder, to_type, stored, builder.add(place, step), kept.type)
                builder.store(kept, to, align=2)
                error = builder.fsub(nearest, values)
                away = builder.fsub(nearest, shifts)
                size = builder.bitcast(
                    builder.and_(builder.bitcast(error, _INTS), constant(_INTS, 0x7FFFFFFF)), VECTOR
                )
                squares = (builder.fmul(x, x, flags=_FUSED) for x in (away, error))
                terms = (away, *squares, size, nearest, nearest)
                for slot, term, combine in zip(slots, terms, combined, strict=True):
                    if combine is _plus:
                        total = builder.fadd(builder.load(slot), term, flags=_FUSED)
                    else:
                        total = combine(builder, term, builder.load(slot))
                    builder.store(total, slot)
            results = [
                folded(builder, builder.load(slot), combine)
                for slot, combine in zip(slots, combined, strict=True)
            ]
            return context.make_tuple(builder, signature.return_type, results)

        number = types.int64
        returned = types.UniTuple(types.float32, 6)  # type: ignore[no-untyped-call]
        arguments = source, number, number, stored, number, types.float32, number
        return returned(*arguments), written

    return _in_place(typed)


rounded = rounding(to_half if _has_half_instructions() else to_half_by_bits)


@_in_place
def shortened(typing: Any, value: Any) -> Any:
    """Return a float32 without the digits that a float16 of its size cannot have."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        bits = builder.and_(builder.bitcast(given[0], _INT), ir.Constant(_INT, -0x2000))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), written


def _interleaved(builder: Any, one: Any, other: Any, part: int) -> Any:
    """Take turns from the lower or the upper half of every eight of either."""
    chosen = [
        source * RUN + first + i
        for first in range(4 * part, RUN, 8)
        for i in range(4)
        for source in (0, 1)
    ]
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, RUN), chosen))


@_in_place
def transposed(
    typing: Any, tile: Any, place: Any, pitch: Any, stored: Any, target: Any, stride: Any
) -> Any:
    """Write 8 rows of 32 halves as 32 rows of 8: from tile[place], tile[place + pitch] ... on, to
    stored[target], stored[target + stride] ..."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        tile, place, pitch, stored, target, stride = given
        wide, narrow = ir.VectorType(_SHORT, RUN), ir.VectorType(_SHORT, ROWS)
        rows = []
        for _ in range(ROWS):
            at = address(context, builder, signature.args[0], tile, place, wide)
            rows.append(builder.load(at, align=2))
            place = builder.add(place, pitch)
        # As cards are shuffled, thrice: each time a place's number turns by one of its six bits, so
        # that row and position of the eight change places.
        for _ in range(3):
            rows = [
                _interleaved(builder, rows[pair], rows[pair + 4], part)
                for pair in range(4)
                for part in (0, 1)
            ]
        for lane in range(0, RUN, 8):
            for row in rows:
                chosen = ir.Constant(ir.VectorType(_INT, 8), list(range(lane, lane + 8)))
                to = address(context, builder, signature.args[3], stored, target, narrow)
                builder.store(builder.shuffle_vector(row, row, chosen), to, align=2)
                target = builder.add(target, stride)
        return context.get_dummy_value()

    number = types.int64
    return types.void(tile, number, number, stored, number, number), written
