"""One epoch of a level: which tile of which sample comes when, in blocks that one call copies.

A tile is [h, w, C] out of a stored map [H, W, C]; a tile larger than its map repeats the map's last
rows and columns. Whatever the mix of maps, a tile is a list of equally long runs of consecutive
values; all runs of all tiles are copied by a single `index_select`, which neither holds Python's
lock nor spends any Python on a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.reading.level_reader import LevelReader
from data.reading.order import batch_shares, crop_fractions
from data.reading.resident import ResidentMaps
from data.system.mapped_files import page_ranges


def tile_runs(
    starts: NDArray[Any],
    map_widths: NDArray[Any],
    corners: NDArray[Any],
    sizes: NDArray[Any],
    tile: tuple[int, int],
    num_channels: int,
) -> tuple[NDArray[Any], int]:
    """Return where each run begins, int64 [n * runs per tile], and the length of a run, in values.

    Per tile: `starts` [n] is where its map begins, `map_widths` [n] is W, `corners` [n, 2] is the
    tile's (top, left) in its map, `sizes` [n, 2] its (height, width) in the map, at most `tile`.
    """
    height, width = tile
    if (sizes[:, 1] < width).any():
        rows = np.minimum(np.arange(height), sizes[:, :1] - 1)
        columns = np.minimum(np.arange(width), sizes[:, 1:] - 1)
        positions = (corners[:, :1] + rows)[:, :, None] * map_widths[:, None, None]
        positions = positions + (corners[:, 1:] + columns)[:, None, :]
        return (starts[:, None, None] + positions * num_channels).reshape(-1), num_channels
    if (sizes[:, 0] < height).any() or (map_widths > width).any():
        rows = np.minimum(np.arange(height), sizes[:, :1] - 1)
        positions = (corners[:, :1] + rows) * map_widths[:, None] + corners[:, 1:]
        return (starts[:, None] + positions * num_channels).reshape(-1), width * num_channels
    # Rows of full width follow one another: the tile is one run.
    return starts + corners[:, 0] * width * num_channels, height * width * num_channels


def copy_runs(memory: Tensor, offsets: NDArray[Any], run_length: int, out: Tensor) -> None:
    """Fill `out` [n * run_length] with the runs of `memory` [N] that begin at `offsets` int64 [n].

    Raises IndexError if a run reaches beyond `memory`.
    """
    windows = memory.as_strided((len(memory) - run_length + 1, run_length), (1, 1))
    index = torch.from_numpy(offsets)
    torch.index_select(windows, 0, index, out=out.view(len(offsets), run_length))


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


_PROBED_RUNS = 4
_RUNS_PER_PART = 16


class Epoch:
    """Which tile of which sample when, and where its values lie: in files, or `resident`."""

    def __init__(
        self, reader: LevelReader, order: NDArray[Any], crop: int | None, seed: int, epoch: int,
        *, batch_size: int, rank: int, num_ranks: int, resident: ResidentMaps | None = None,
    ) -> None:  # fmt: skip
        fractions = crop_fractions(num_samples=len(order), seed=seed, epoch=epoch)
        positions, self._counts = batch_shares(
            num_samples=len(order), batch_size=batch_size, rank=rank, num_ranks=num_ranks
        )
        whole = reader.shapes[order, :2]
        sizes: NDArray[Any] = whole if crop is None else np.minimum(whole, crop)
        batches = np.arange(0, len(order), batch_size)
        # A batch is as large as its largest sample, whichever rank has it.
        self._tiles = np.maximum.reduceat(sizes, batches, axis=0)
        self._batch_positions = np.add.reduceat(sizes.prod(axis=1), batches)
        self._batch_rows = np.minimum(batch_size, len(order) - batches)
        self._first_rows = self._batch_rows * rank // num_ranks
        self._reader = reader
        self._num_channels = int(reader.shapes[0, 2])
        self._order = order[positions]
        self._shapes = reader.shapes[self._order]
        self._resident = resident
        self._starts = (resident or reader).starts[self._order]
        self.sizes: NDArray[Any] = sizes[positions]
        """(h, w) of each sample's tile in the order of the epoch, int64 [n, 2]."""
        whole = whole[positions]
        self._corners = (fractions[self._order] * (whole - self.sizes + 1)).astype(np.int64)
        if resident is None and (self.sizes < whole).any():
            # Reading ahead would fetch what lies between the crops.
            reader.files.expect_random_reads()

    def blocks(self, first_batch: int) -> list[Block]:
        """Return the epoch's blocks from a batch on."""
        return cut_blocks(
            self._tiles,
            self._counts,
            first_batch=first_batch,
            value_bytes=self._num_channels * self._reader.dtype.itemsize,
        )

    def whole_batch(self, number: int) -> dict[str, int]:
        """Return what a rank's part of a batch says of the whole one."""
        return {
            "first_row": int(self._first_rows[number]),
            "batch_rows": int(self._batch_rows[number]),
            "batch_positions": int(self._batch_positions[number]),
        }

    def num_values(self, block: Block) -> int:
        """Return how many values a block holds."""
        height, width = block.tile_hw
        return (block.last - block.first) * height * width * self._num_channels

    def prefetch(self, block: Block) -> None:
        """Have the system read what a block needs, unless it is in memory already."""
        if self._resident is not None:
            return
        offsets, run_length = self._runs(block)
        value_bytes = self._reader.dtype.itemsize
        files = self._reader.files
        probed = offsets[:: max(1, len(offsets) // _PROBED_RUNS)] * value_bytes
        if not files.is_resident(probed.tolist()):
            for start, length in page_ranges(offsets * value_bytes, run_length * value_bytes):
                files.prefetch(start, length)

    def fill(self, block: Block, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copy a block's tiles; return what `parts` does."""
        if self._resident is not None:
            self._resident.gather(*self._runs(block), memory)
        else:
            self._require_whole(block)
            copy_runs(self._reader.values_to_gather, *self._runs(block), memory)
        return self.parts(block, memory)

    def copies(self, block: Block, memory: Tensor, num_parts: int) -> list[Callable[[], None]]:
        """Return calls that together copy a block's tiles out of the files, about equal ones."""
        self._require_whole(block)
        offsets, run_length = self._runs(block)
        num_tiles = block.last - block.first
        if len(offsets) == num_tiles < _RUNS_PER_PART * num_parts:
            # Whole tiles: row by row there is something for everybody.
            height = block.tile_hw[0]
            run_length //= height
            offsets = (offsets[:, None] + np.arange(height) * run_length).reshape(-1)
        values, runs = self._reader.values_to_gather, memory.view(len(offsets), run_length)
        return [
            partial(copy_runs, values, part, run_length, out)
            for part, out in zip(
                np.array_split(offsets, num_parts), torch.tensor_split(runs, num_parts), strict=True
            )
            if len(part)
        ]

    def parts(self, block: Block, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what a block's memory holds: features [n, C, h, w], indices [n], sizes [n, 2].

        And where each of them begins in its stored map, (top, left), int64 [n, 2].
        """
        part = slice(block.first, block.last)
        height, width = block.tile_hw
        tiles = memory.view(block.last - block.first, height, width, self._num_channels)
        return (
            tiles.permute(0, 3, 1, 2),
            torch.from_numpy(self._order[part]),
            torch.from_numpy(self.sizes[part]),
            torch.from_numpy(self._corners[part]),
        )

    def _require_whole(self, block: Block) -> None:
        self._reader.require_whole(self._order[block.first : block.last])

    def _runs(self, block: Block) -> tuple[NDArray[Any], int]:
        part = slice(block.first, block.last)
        return tile_runs(
            self._starts[part],
            self._shapes[part, 1],
            self._corners[part],
            self.sizes[part],
            block.tile_hw,
            self._num_channels,
        )
