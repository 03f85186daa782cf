"""The code of 8-bit caches: what bytes stand for, to the bit, and what is no code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from data.coding.byte_code import ByteCode


def code_of(*ranges: tuple[float, float]) -> ByteCode:
    """The code of channels with these least and greatest values."""
    return ByteCode.of_ranges(*np.array(ranges, dtype=np.float32).T)


def nearest(code: ByteCode, values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint((values - code.offsets) / code.scales), 0, 255).astype(np.uint8)


def test_all_bytes_stand_for_even_steps_from_a_channel_s_least_to_its_greatest_value() -> None:
    code = code_of((-2, 3), (0, 1e-6), (-1e30, 1e30))
    every = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    values = code.decoded(every)
    assert values.dtype == np.float32
    exact = every * code.scales.astype(np.float64) + code.offsets
    np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-6 * code.scales.max())
    np.testing.assert_allclose(values[255], [3, 1e-6, 1e30], rtol=1e-5)
    np.testing.assert_array_equal(nearest(code, values), every)


def test_a_channel_of_one_value_keeps_it_exactly() -> None:
    code = code_of((0.1, 0.1), (0, 1e-44))
    values = np.float32([[0.1, 0]])
    np.testing.assert_array_equal(code.decoded(nearest(code, values)), values)


def test_code_comes_back_from_json_to_the_bit() -> None:
    code = code_of((-0.1, 0.3), (1 / 3, 7))
    found = TypeAdapter(ByteCode).validate_python(code.to_json())
    assert found == code
    np.testing.assert_array_equal(found.scales, code.scales)


@pytest.mark.parametrize(
    ("scale", "offset", "problem"),
    [
        ((1.0,), (0.0, 0.0), "is of 1 and 2 channels, not 2"),
        ((1.0, 1.0), (0.0, float("nan")), "is not finite"),
        ((1.0, 0.0), (0.0, 0.0), "has a scale that is not above 0"),
    ],
)
def test_what_is_no_code_is_said(
    scale: tuple[float, ...], offset: tuple[float, ...], problem: str
) -> None:
    assert ByteCode(scale=scale, offset=offset).problem(2) == problem
    assert ByteCode(scale=(1.0, 2.0), offset=(0.0, 0.0)).problem(2) is None
