"""What may stand for one level of a split: any source of maps, and decoded ones on the disk."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import MachineError
from data.system.array_files import take_space, write_all


class MapSource(Protocol):
    """One level's maps: as cached, decoded, derived from another level, or made up."""

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of the split's sample number `index`, float [H, W, C]."""


def as_batch(values: NDArray[Any]) -> torch.Tensor:
    """Return [H, W, C] as float32 [1, C, H, W]; a copy."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).permute(2, 0, 1)[None]


class DecodedMaps:
    """[H, W, C] maps of differing H and W in one file, in the dtype of the cache's values.

    They are written as files are, and read through a mapping: a page that the disk has no room for
    would end the process if it were written through one.
    """

    def __init__(
        self,
        file: Path,
        shapes: Sequence[tuple[int, int, int]],
        dtype: np.dtype[Any],
        *,
        first: int = 0,
    ) -> None:
        """Lay the file out for the samples from `first` on; MachineError if the disk is full."""
        self._first = first
        sizes = [height * width * channels for height, width, channels in shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._shapes = list(shapes)
        self._file = file
        self._dtype = dtype
        num_values = int(self._starts[-1])
        with self._clear_full_disk():
            with file.open("wb") as opened:
                opened.truncate(num_values * dtype.itemsize)
                take_space(opened.fileno(), num_values * dtype.itemsize)
            self._handle = os.open(file, os.O_RDWR)
        self._close = weakref.finalize(self, os.close, self._handle)
        self._values: NDArray[Any] = np.memmap(file, dtype=dtype, mode="r", shape=(num_values,))

    def write(self, index: int, values: NDArray[Any]) -> None:
        """Store the map of sample `index`, float [H, W, C]; beyond float16's range it is clipped.

        Raises MachineError if the disk is full.
        """
        place = index - self._first
        if self._dtype == np.float16 and values.dtype != np.float16:
            limit = np.finfo(np.float16).max
            if np.abs(values).max(initial=0) > limit:
                values = np.clip(values, -limit, limit)
        assert values.shape == self._shapes[place]
        content = np.ascontiguousarray(values, dtype=self._dtype).reshape(-1).view(np.uint8).data
        offset = int(self._starts[place]) * self._dtype.itemsize
        with self._clear_full_disk():
            write_all(self._handle, content, offset)

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index` as [H, W, C], a read-only view of the file."""
        place = index - self._first
        values = self._values[self._starts[place] : self._starts[place + 1]]
        return values.reshape(self._shapes[place])

    def discard(self) -> None:
        """Free the disk space; the maps cannot be read afterwards."""
        self._values = np.zeros(0, dtype=self._dtype)
        self._close()
        self._file.unlink(missing_ok=True)

    @contextmanager
    def _clear_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MachineError(
                f"{self._file}: decoded maps cannot be written ({error.strerror or error}): make "
                "room, or name a folder on another disk with --report; what was measured is kept"
            ) from error
