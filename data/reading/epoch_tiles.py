"""One epoch of a level: which tile of which sample comes when, in blocks that one call copies.

With the level's tiles come those of what is read beside it, at the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.reading.companion import Companion, common_stride
from data.reading.level_reader import LevelReader
from data.reading.order import batch_shares, crop_corners, crop_fractions, reader_draws
from data.reading.resident import ResidentMaps
from data.reading.tiles import Tiles

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

    @property
    def part(self) -> slice:
        """Its positions."""
        return slice(self.first, self.last)


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


class Epoch:
    """Which tile of which sample when, and where its values lie: in files, or `resident`."""

    def __init__(
        self, reader: LevelReader, order: NDArray[Any], crop: int | None, seed: int, epoch: int,
        *, batch_size: int, rank: int, num_ranks: int, resident: ResidentMaps | None = None,
        beside: Sequence[Companion] = (),
    ) -> None:  # fmt: skip
        fractions = crop_fractions(num_samples=len(order), seed=seed, epoch=epoch)
        positions, self._counts = batch_shares(
            num_samples=len(order), batch_size=batch_size, rank=rank, num_ranks=num_ranks
        )
        whole = reader.shapes[order, :2]
        largest: NDArray[Any] = whole if crop is None else np.minimum(whole, crop)
        corners = crop_corners(fractions[order], whole - largest, stride=common_stride(beside))
        sizes = np.minimum(largest, whole - corners)
        batches = np.arange(0, len(order), batch_size)
        # A batch is as large as its largest sample, whichever rank has it; and no smaller where
        # the edges of the maps cut off all its tiles, as each other shape costs a GPU its plans.
        self._tiles = np.maximum.reduceat(largest, batches, axis=0)
        self._batch_positions = np.add.reduceat(sizes.prod(axis=1), batches)
        self._batch_rows = np.minimum(batch_size, len(order) - batches)
        self._first_rows = self._batch_rows * rank // num_ranks
        self._value_bytes = int(reader.shapes[0, 2]) * reader.dtype.itemsize
        self._order = order[positions]
        self.sizes: NDArray[Any] = sizes[positions]
        """(h, w) of each sample's tile in the order of the epoch, int64 [n, 2]."""
        self._corners = corners[positions]

        def tiles_of(
            readers: Sequence[LevelReader], stride: int, resident: ResidentMaps | None
        ) -> Tiles:
            taken = reader_draws(
                num_samples=len(order), num_readers=len(readers), seed=seed, epoch=epoch
            )
            return Tiles(
                readers, self._order, self._corners, self.sizes,
                taken=taken[self._order], stride=stride, resident=resident,
            )  # fmt: skip

        self._levels = [tiles_of([reader], 1, resident)]
        self._levels += [tiles_of(each.readers, each.stride, None) for each in beside]

    def blocks(self, first_batch: int) -> list[Block]:
        """Return the epoch's blocks from a batch on."""
        return cut_blocks(
            self._tiles, self._counts, first_batch=first_batch, value_bytes=self._value_bytes
        )

    def whole_batch(self, number: int) -> dict[str, int]:
        """Return what a rank's part of a batch says of the whole one."""
        return {
            "first_row": int(self._first_rows[number]),
            "batch_rows": int(self._batch_rows[number]),
            "batch_positions": int(self._batch_positions[number]),
        }

    def num_values(self, block: Block) -> list[int]:
        """Return how many values a block holds: of the level, and of each one beside it."""
        return [level.num_values(block.part, block.tile_hw) for level in self._levels]

    def prefetch_next(self, blocks: Sequence[Block], number: int) -> None:
        """Have the system read the block after that number; before the first one, that one too.

        Of a remote cache several blocks are on their way.
        """
        ahead = max(level.blocks_ahead for level in self._levels)
        for block in blocks[0 if number == 0 else number + ahead : number + ahead + 1]:
            self._prefetch(block)

    def _prefetch(self, block: Block) -> None:
        """Have the system read what a block needs, unless it is in memory already."""
        for level in self._levels:
            level.prefetch(block.part, block.tile_hw)

    def fill(self, block: Block, memory: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Copy a block's tiles into memory of `num_values`; return its `parts`."""
        for level, its in zip(self._levels, memory, strict=True):
            level.fill(block.part, block.tile_hw, its)
        return self.parts(block, memory)

    def copies(
        self, block: Block, memory: Sequence[Tensor], num_parts: int
    ) -> list[Callable[[], None]]:
        """Return calls that together copy a block's tiles out of the files, about equal ones."""
        return [
            copy
            for level, its in zip(self._levels, memory, strict=True)
            for copy in level.copies(block.part, block.tile_hw, its, num_parts)
        ]

    def parts(self, block: Block, memory: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what a block's memory holds.

        That is features [n, C, h, w], indices [n], sizes [n, 2], corners [n, 2], where they begin
        in their stored maps, and the features of what is beside, [n, C', h', w'] each.
        """
        features, *beside = (
            level.features(block.part, block.tile_hw, its)
            for level, its in zip(self._levels, memory, strict=True)
        )
        return (
            features,
            torch.from_numpy(self._order[block.part]),
            torch.from_numpy(self.sizes[block.part]),
            torch.from_numpy(self._corners[block.part]),
            *beside,
        )
