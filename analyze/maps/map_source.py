"""What may stand for one level of a split, and how a map becomes what networks take."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class MapSource(Protocol):
    """One level's maps: as cached, decoded, derived from another level, or made up."""

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of the split's sample number `index`, float [H, W, C]."""


def as_batch(values: NDArray[Any]) -> torch.Tensor:
    """Return [H, W, C] as float32 [1, C, H, W]; a copy."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).permute(2, 0, 1)[None]
