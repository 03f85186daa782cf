"""Which sample when, and which crop of it: pure functions of (seed, epoch) or of the image."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER_DOMAIN, _CROP_DOMAIN, _SHARD_DOMAIN = 1, 2, 3


def epoch_order(*, num_samples: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return a permutation of all samples, int64 [num_samples]; each epoch has its own."""
    return np.random.default_rng([_ORDER_DOMAIN, seed, epoch]).permutation(num_samples)


def epoch_order_by_shards(
    *, shard_of: NDArray[Any], window: int, seed: int, epoch: int
) -> NDArray[Any]:
    """Return a permutation, int64 [n], that visits `window` shards at a time and no shard twice.

    `shard_of` int64 [n] is each sample's shard. The shards come in random order; the samples of a
    window of shards are shuffled together. Storage then sees long reads, not samples all over it.
    """
    rng = np.random.default_rng([_SHARD_DOMAIN, seed, epoch])
    num_shards = int(shard_of.max()) + 1
    place = np.empty(num_shards, dtype=np.int64)
    place[rng.permutation(num_shards)] = np.arange(num_shards)
    # Sorted by window first; within a window a random key decides.
    order: NDArray[Any] = np.lexsort((rng.random(len(shard_of)), place[shard_of] // window))
    return order


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
