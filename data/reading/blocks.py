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
    """Positions `first` to `last` (exclusive) of the epoch's order; all tiles are `tile_hw`.

    `counts` are the samples of each batch in it; `first_batch` is the number of the first one.
    """

    first: int
    last: int
    tile_hw: tuple[int, int]
    counts: tuple[int, ...]
    first_batch: int


def cut_blocks(
    tiles: NDArray[Any], counts: NDArray[Any], *, first_batch: int, value_bytes: int
) -> list[Block]:
    """Return the blocks from a batch on.

    `tiles` int64 [n, 2] are each batch's (h, w), `counts` int64 [n] its samples, which follow one
    another in the order; `value_bytes` are the bytes of one position. A block is of whole batches,
    at least one.
    """
    ends = np.cumsum(counts)
    blocks = []
    changes = np.flatnonzero((np.diff(tiles, axis=0) != 0).any(axis=1)) + 1
    for begin, end in zip([0, *changes], [*changes, len(tiles)], strict=True):
        if end <= first_batch:
            continue
        begin = max(begin, first_batch)
        height, width = tiles[begin].tolist()
        batch_bytes = max(1, int(counts[begin:end].max())) * height * width * value_bytes
        step = max(1, BLOCK_BYTES // batch_bytes)
        for batch in range(begin, end, step):
            until = min(batch + step, end)
            here = tuple(counts[batch:until].tolist())
            last = int(ends[until - 1])
            blocks.append(
                Block(
                    first=last - sum(here),
                    last=last,
                    tile_hw=(height, width),
                    counts=here,
                    first_batch=int(batch),
                )
            )
    return blocks
