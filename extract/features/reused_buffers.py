"""Memory for decoded images that is used again and again, pinned for a GPU."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_LEAST_BYTES = 2**16


class ReusedBuffers:
    """Buffers uint8 [n], taken by many threads and given back when nobody reads them any more.

    Fresh memory is handed out page by page, under a lock that all threads share, and pinning it
    stops a GPU: so images of nearly each another size get buffers of a few sizes, powers of two.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[int, list[Tensor]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return memory uint8 of this shape, of whatever values."""
        num_bytes = math.prod(shape)
        size = _size_of(num_bytes)
        with self._lock:
            buffer = self._free[size].pop() if self._free[size] else None
        if buffer is None:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return buffer[:num_bytes].view(*shape)

    def give_back(self, taken: Iterable[Tensor]) -> None:
        """Let others have what was taken; what a GPU was asked to read of it, it has read."""
        with self._lock:
            for tensor in taken:
                size = _size_of(tensor.numel())
                self._free[size].append(tensor.as_strided((size,), (1,), 0))


def _size_of(num_bytes: int) -> int:
    return max(_LEAST_BYTES, 1 << (num_bytes - 1).bit_length())
