"""Compiled loops where the compiled cannot be kept."""

from __future__ import annotations

import pytest
from numba import njit

from data.system.compiled_loops import compiled


def test_loop_whose_compiled_form_no_folder_can_keep_is_compiled_all_the_same() -> None:
    function = eval("lambda number: number + 1")  # of no file, so Numba has nowhere to keep it
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(function)
    assert compiled(function)(41) == 42
