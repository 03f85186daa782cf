"""Sixteen floats at a time, in LLVM's terms: what intrinsics for Numba's loops are made of.

Importing llvmlite and Numba takes a while: import this late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from data.system.compiled_loops import LANES

VECTOR = ir.VectorType(ir.FloatType(), LANES)

_INT = ir.IntType(32)


def address(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any = VECTOR
) -> Any:
    """Return where a vector lies that begins with a flat array's element `index`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def constant(vector: Any, value: float) -> Any:
    """Return a vector of one value."""
    return ir.Constant(vector, [ir.Constant(vector.element, value)] * vector.count)


def everywhere(builder: Any, value: Any) -> Any:
    """Return a vector of a float32 that is known when it runs."""
    empty = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, empty, constant(ir.VectorType(_INT, LANES), 0))


def folded(builder: Any, lanes: Any, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """Return the one float32 that is left of sixteen, half with half combined until then."""
    width = LANES
    while width > 1:
        width //= 2
        halves = (
            ir.Constant(ir.VectorType(_INT, width), list(range(first, first + width)))
            for first in (0, width)
        )
        lanes = combine(builder, *(builder.shuffle_vector(lanes, lanes, half) for half in halves))
    return builder.extract_element(lanes, ir.Constant(_INT, 0))


def prefetch(builder: Any, place: Any) -> None:
    """Have what lies there brought to the cache; a place outside of memory does no harm."""
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, _INT, _INT, _INT])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
    for_reading, to_all_caches, of_data = (ir.Constant(_INT, x) for x in (0, 3, 1))
    builder.call(function, [builder.bitcast(place, pointer), for_reading, to_all_caches, of_data])
