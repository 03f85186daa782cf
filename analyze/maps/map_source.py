"""What may stand for one level of a split: any source of maps, and decoded ones on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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


class DecodedMaps:
    """Memory-mapped [H, W, C] maps of differing H and W in one file, in the cache's own dtype."""

    def __init__(
        self, file: Path, shapes: Sequence[tuple[int, int, int]], dtype: np.dtype[Any]
    ) -> None:
        sizes = [height * width * channels for height, width, channels in shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._shapes = list(shapes)
        self._file = file
        self._values: NDArray[Any] = np.memmap(
            file, dtype=dtype, mode="w+", shape=(int(self._starts[-1]),)
        )

    def write(self, index: int, values: NDArray[Any]) -> None:
        """Store map number `index`, float [H, W, C]; beyond float16's range it is clipped."""
        if self._values.dtype == np.float16:
            limit = np.finfo(np.float16).max
            if np.abs(values).max(initial=0) > limit:
                values = np.clip(values, -limit, limit)
        self._slice(index)[:] = values.reshape(-1)

    def read(self, index: int) -> NDArray[Any]:
        """Return map number `index` as [H, W, C], a view of the file."""
        return self._slice(index).reshape(self._shapes[index])

    def discard(self) -> None:
        """Free the disk space; the maps cannot be read afterwards."""
        self._values = np.zeros(0, dtype=self._values.dtype)
        self._file.unlink(missing_ok=True)

    def _slice(self, index: int) -> NDArray[Any]:
        return self._values[self._starts[index] : self._starts[index + 1]]
