"""Sixteen floats at a time: intrinsics that Numba's loops call, from formulas in plain Python.

LLVM makes vectors of a loop only where it can prove, or check cheaply, that what is written is not
read again. A loop over tiles that reads eleven rows and writes eleven others is beyond it, so these
say outright which sixteen neighbours are read and written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from train.codecs.fast.winograd import LANES

_in_place: Callable[[Callable[..., Any]], Callable[..., Any]] = intrinsic

VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FUSED = ("contract", "nsz")  # a product and a sum may become one instruction; no rearranging


class _Lanes:
    """Sixteen floats of a formula: +, - and * write instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self._builder, self._value = builder, value

    def __add__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self._builder, self._builder.fadd(self._value, other._value, flags=_FUSED))

    def __sub__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self._builder, self._builder.fsub(self._value, other._value, flags=_FUSED))

    def __rmul__(self, factor: float) -> _Lanes:
        return self * _Lanes(self._builder, constant(VECTOR, factor))

    def __mul__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self._builder, self._builder.fmul(self._value, other._value, flags=_FUSED))


def _read(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> _Lanes:
    place = address(context, builder, array_type, array, index)
    return _Lanes(builder, builder.load(place, align=4))


def _write(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: _Lanes
) -> None:
    builder.store(lanes._value, address(context, builder, array_type, array, index), align=4)


def applied(formula: Callable[[Sequence[Any]], Sequence[Any]], num_values: int) -> Any:
    """Return f(source, first, step, final, target, place, stride, last) that applies a formula.

    Reads `num_values` values from source[first], source[first + step] ... on, but the last one from
    source[final]; writes the results to target[place], target[place + stride] ..., but the last one
    to target[last]. Both arrays are flat float32; a value is sixteen elements.
    """

    def typed(
        typing: Any, source: Any, first: Any, step: Any, final: Any, target: Any, place: Any,
        stride: Any, last: Any,
    ) -> Any:  # fmt: skip
        def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
            source, index, step, final, target, place, stride, last = given
            values = []
            for number in range(num_values):
                at = final if number == num_values - 1 else index
                values.append(_read(context, builder, signature.args[0], source, at))
                index = builder.add(index, step)
            results = formula(values)
            for number, result in enumerate(results):
                at = last if number == len(results) - 1 else place
                _write(context, builder, signature.args[4], target, at, result)
                place = builder.add(place, stride)
            return context.get_dummy_value()

        place = types.int64
        return types.void(source, *[place] * 3, target, *[place] * 3), written

    return _in_place(typed)


@_in_place
def scaled(
    typing: Any, source: Any, index: Any, factors: Any, channel: Any, num_channels: Any,
    target: Any, place: Any,
) -> Any:  # fmt: skip
    """target[place] = source[index] * factors[channel] + factors[num_channels + channel]."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        source, index, factors, channel, num_channels, target, place = given
        value = _read(context, builder, signature.args[0], source, index)
        factor = _read(context, builder, signature.args[2], factors, channel)
        at = builder.add(channel, num_channels)
        term = _read(context, builder, signature.args[2], factors, at)
        _write(context, builder, signature.args[5], target, place, value * factor + term)
        return context.get_dummy_value()

    number = types.int64
    return types.void(source, number, factors, number, number, target, number), written


@_in_place
def copied(typing: Any, source: Any, index: Any, target: Any, place: Any) -> Any:
    """target[place] = source[index]."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        source, index, target, place = given
        value = _read(context, builder, signature.args[0], source, index)
        _write(context, builder, signature.args[2], target, place, value)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), written


@_in_place
def cleared(typing: Any, target: Any, place: Any) -> Any:
    """target[place] = 0."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        target, place = given
        zero = _Lanes(builder, constant(VECTOR, 0.0))
        _write(context, builder, signature.args[0], target, place, zero)
        return context.get_dummy_value()

    return types.void(target, types.int64), written


@_in_place
def added(typing: Any, source: Any, index: Any, target: Any, place: Any) -> Any:
    """target[place] += source[index]."""

    def written(context: Any, builder: Any, signature: Any, given: Sequence[Any]) -> Any:
        source, index, target, place = given
        value = _read(context, builder, signature.args[0], source, index)
        before = _read(context, builder, signature.args[2], target, place)
        _write(context, builder, signature.args[2], target, place, before + value)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), written


def address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Return where a vector lies that begins with a flat array's element `index`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


def constant(vector: Any, value: float) -> Any:
    """Return a vector of one value."""
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)
