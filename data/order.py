"""Which sample when, and which crop of it: pure functions of (seed, epoch)."""

from __future__ import annotations

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
