"""Which sample when, and which crop of it: pure functions of (seed, epoch) or of the image."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER_DOMAIN, _CROP_DOMAIN = 1, 2


def epoch_order(*, num_samples: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return a permutation of all samples, int64 [num_samples]; each epoch has its own."""
    return np.random.default_rng([_ORDER_DOMAIN, seed, epoch]).permutation(num_samples)


def crop_fractions(*, num_samples: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return where each sample's crop lies, float64 [num_samples, 2] in [0, 1) of the free range.

    A sample's crop depends on its own index only, not on batch size or order.
    """
    return np.random.default_rng([_CROP_DOMAIN, seed, epoch]).random((num_samples, 2))


def stored_corner(
    *, image_id: int, level: int, map_hw: tuple[int, int], crop_hw: tuple[int, int]
) -> tuple[int, int]:
    """Return (top, left), in positions, of the crop that a cropped cache stores of a map.

    It depends on image and level alone, and by a hash, so that any program can find it again: the
    SHA-256 of "crop:<image_id>:<level>" is read as big-endian integers of 64 bits; the first gives
    the row, the second the column, as floor(integer * (map - crop + 1) / 2^64).
    """
    digest = hashlib.sha256(f"crop:{image_id}:{level}".encode()).digest()
    integers = (int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big"))
    free = (map_hw[0] - crop_hw[0] + 1, map_hw[1] - crop_hw[1] + 1)
    return integers[0] * free[0] >> 64, integers[1] * free[1] >> 64
