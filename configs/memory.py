"""Freed memory stays with the process: a network's tensors come and go with every layer."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # parameters of glibc's mallopt
_SETTINGS = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, in blocks of up to 1 GiB, for the next tensor.

    Otherwise it hands large blocks back at once and gets them anew, page after page: on two cores a
    training step on level 0 took a tenth to a quarter longer. Where the C library is another one,
    or the user has set MALLOC_* himself, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        return
    for parameter, value in _SETTINGS.items():
        mallopt(parameter, value)
