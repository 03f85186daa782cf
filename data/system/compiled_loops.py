"""Loops that Numba compiles, and keeps compiled from one process to the next where it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return `function` compiled when first called, to run without the GIL; options are njit's."""
    # Importing Numba takes longer than many a command that needs none of its loops.
    from numba import njit

    try:
        kept: Callable[..., Any] = njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # neither our own folder nor the user's can be written
        kept = njit(nogil=True, **options)(function)
    return kept
