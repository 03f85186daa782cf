"""Cut an epoch into blocks: runs of batches of one shape that are copied by one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Large enough that Python's share of a block vanishes, small enough to stay in a CPU's cache.
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Positions `first` to `last` (exclusive) of the epoch's order; all tiles are `tile_hw`."""

    first: int
    last: int
    tile_hw: tuple[int, int]


def cut_blocks(
    sizes: NDArray[Any], *, batch_size: int, first_batch: int, value_bytes: int
) -> list[Block]:
    """Return the blocks from a batch on. `sizes` int64 [n, 2] are (h, w) in the epoch's order.

    A batch is as large as its largest sample; `value_bytes` are the bytes of one position. A block
    is of whole batches, at least one.
    """
    num_samples = len(sizes)
    starts = np.arange(first_batch * batch_size, num_samples, batch_size)
    if not len(starts):
        return []
    tiles = np.maximum.reduceat(sizes, starts, axis=0)
    blocks = []
    changes = np.flatnonzero((np.diff(tiles, axis=0) != 0).any(axis=1)) + 1
    for begin, end in zip([0, *changes], [*changes, len(starts)], strict=True):
        height, width = tiles[begin].tolist()
        batch_bytes = batch_size * height * width * value_bytes
        step = max(1, BLOCK_BYTES // batch_bytes)
        for batch in range(begin, end, step):
            first = int(starts[batch])
            last = min(first + min(step, end - batch) * batch_size, num_samples)
            blocks.append(Block(first=first, last=last, tile_hw=(height, width)))
    return blocks
