"""Which sample when, and which crop of it: pure functions of (seed, epoch) or of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER_DOMAIN, _CROP_DOMAIN, _SHARD_DOMAIN, _LEVEL_DOMAIN, _READER_DOMAIN = 1, 2, 3, 4, 5


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


def crop_corners(fractions: NDArray[Any], free: NDArray[Any], *, stride: int) -> NDArray[Any]:
    """Return the corners of crops, int64 [n, 2]: multiples of `stride`, each as likely.

    `fractions` float64 [n, 2] are those of `crop_fractions`, `free` int64 [n, 2] is by how much the
    map is larger than the crop. Where `stride` does not divide that, the last corner is the next
    multiple, as the map's edge would never be seen else: a crop there reaches beyond the map.
    """
    corners: NDArray[Any] = (fractions * (-(-free // stride) + 1)).astype(np.int64) * stride
    return corners


def reader_draws(*, num_samples: int, num_readers: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return which of several readers each sample is taken from, int64 [num_samples].

    As its crop, that depends on its own index only.
    """
    rng = np.random.default_rng([_READER_DOMAIN, seed, epoch])
    draws: NDArray[Any] = rng.integers(num_readers, size=num_samples)
    return draws


def batch_shares(
    *, num_samples: int, batch_size: int, rank: int, num_ranks: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return which positions of an epoch's order a rank takes, int64 [n], and how many per batch.

    Every batch is shared out among the ranks as evenly as it goes, in consecutive runs; of the last
    batch, which may be small, a rank's share may be empty. The second array is int64 [batches].
    """
    starts = np.arange(0, num_samples, batch_size)
    sizes = np.minimum(batch_size, num_samples - starts)
    firsts, lasts = sizes * rank // num_ranks, sizes * (rank + 1) // num_ranks
    counts = lasts - firsts
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    positions: NDArray[Any] = np.repeat(starts + firsts, counts) + within
    return positions, counts


def level_draws(*, weights: NDArray[Any], num_batches: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return which level each batch of an epoch is of, int64 [num_batches] into `weights` [L]."""
    rng = np.random.default_rng([_LEVEL_DOMAIN, seed, epoch])
    draws: NDArray[Any] = rng.choice(len(weights), size=num_batches, p=weights / weights.sum())
    return draws
