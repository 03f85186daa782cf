"""Tiles out of stored maps, and what they are copied to.

A tile is [h, w, C] out of a stored map [H, W, C]; a tile larger than its map repeats the map's last
rows and columns. Whatever the mix of maps, a tile is a list of equally long runs of consecutive
values; all runs of all tiles are copied by a single `index_select`, which neither holds Python's
lock nor spends any Python on a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.reading.level_reader import LevelReader
from data.reading.resident import ResidentMaps
from data.system.array_files import page_ranges


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


_PROBED_RUNS = 4
_RUNS_PER_PART = 16


class Tiles:
    """The tiles of one level in the order of an epoch, and where their values lie.

    `corners` and `sizes` int64 [n, 2] are in positions of the streamed level, which has `stride` of
    them for each of this one's; corners are multiples of it. `taken` int64 [n] says which of the
    `readers`, whose maps are of the same shapes, a tile is from. `resident`: the one reader's maps
    on a device. All below take a part of the order, and the tile (h, w) in the same positions.
    """

    def __init__(
        self, readers: Sequence[LevelReader], order: NDArray[Any], corners: NDArray[Any],
        sizes: NDArray[Any], *, taken: NDArray[Any], stride: int = 1,
        resident: ResidentMaps | None = None,
    ) -> None:  # fmt: skip
        self._readers = readers
        self._resident = resident
        self._order = order
        self._taken = taken
        self._stride = stride
        self._corners = corners // stride
        self._sizes = -(-sizes // stride)
        self._shapes = readers[0].shapes[order]
        self._num_channels = int(readers[0].shapes[0, 2])
        sources = readers if resident is None else [resident]
        self._starts = np.stack([source.starts for source in sources])[taken, order]
        if resident is None and (self._sizes < self._shapes[:, :2]).any():
            for reader in readers:
                # Reading ahead would fetch what lies between the crops.
                reader.files.expect_random_reads()

    @property
    def blocks_ahead(self) -> int:
        """How many blocks are to be fetched before they are copied."""
        return max(reader.blocks_ahead for reader in self._readers)

    def num_values(self, part: slice, tile: tuple[int, int]) -> int:
        """Return how many values the tiles hold."""
        height, width = self._own(tile)
        num_tiles: int = part.stop - part.start
        return num_tiles * height * width * self._num_channels

    def prefetch(self, part: slice, tile: tuple[int, int]) -> None:
        """Have the system read what the tiles need, unless it is in memory already."""
        if self._resident is not None:
            return
        offsets, run_length = self._runs(part, tile)
        taken = self._of_runs(part, offsets)
        for number, reader in enumerate(self._readers):
            if reader.expect(self._of_reader(part, number)):
                continue
            value_bytes = reader.dtype.itemsize
            starts = offsets[taken == number] * value_bytes
            probed = starts[:: max(1, len(starts) // _PROBED_RUNS)]
            if not reader.files.is_resident(probed.tolist()):
                for start, length in page_ranges(starts, run_length * value_bytes):
                    reader.files.prefetch(start, length)

    def fill(self, part: slice, tile: tuple[int, int], memory: Tensor) -> None:
        """Copy the tiles into `memory`, whose `num_values` they fill."""
        if self._resident is not None:
            self._resident.gather(*self._runs(part, tile), memory)
            return
        self._require_whole(part)
        for number, values, starts, length, runs in self._pieces(
            part, *self._runs(part, tile), memory
        ):
            copy = partial(copy_runs, values, starts, length, runs)
            self._readers[number].copied(self._of_reader(part, number), copy)

    def copies(
        self, part: slice, tile: tuple[int, int], memory: Tensor, num_parts: int
    ) -> list[Callable[[], None]]:
        """Return calls that together copy the tiles out of the files, about equal ones."""
        self._require_whole(part)
        offsets, run_length = self._runs(part, tile)
        if len(offsets) == part.stop - part.start < _RUNS_PER_PART * num_parts:
            # Whole tiles: row by row there is something for everybody.
            height, _ = self._own(tile)
            run_length //= height
            offsets = (offsets[:, None] + np.arange(height) * run_length).reshape(-1)
        pieces = list(self._pieces(part, offsets, run_length, memory))
        num_shares = -(-num_parts // max(1, len(pieces)))
        return [
            partial(
                self._readers[number].copied, self._of_reader(part, number),
                partial(copy_runs, values, share, run_length, out),
            )
            for number, values, starts, _, runs in pieces
            for share, out in zip(
                np.array_split(starts, num_shares), torch.tensor_split(runs, num_shares),
                strict=True,
            )
            if len(share)
        ]  # fmt: skip

    def features(self, part: slice, tile: tuple[int, int], memory: Tensor) -> Tensor:
        """Return what `memory` holds as [n, C, h, w] channels_last."""
        height, width = self._own(tile)
        tiles = memory.view(part.stop - part.start, height, width, self._num_channels)
        return tiles.permute(0, 3, 1, 2)

    def _own(self, tile: tuple[int, int]) -> tuple[int, int]:
        """Return a tile's (h, w) in positions of this level."""
        return -(-tile[0] // self._stride), -(-tile[1] // self._stride)

    def _require_whole(self, part: slice) -> None:
        for number, reader in enumerate(self._readers):
            reader.require_whole(self._of_reader(part, number))

    def _of_reader(self, part: slice, number: int) -> NDArray[Any]:
        """Return which of the samples are from one of the readers."""
        indices: NDArray[Any] = self._order[part]
        return indices if len(self._readers) == 1 else indices[self._taken[part] == number]

    def _runs(self, part: slice, tile: tuple[int, int]) -> tuple[NDArray[Any], int]:
        return tile_runs(
            self._starts[part],
            self._shapes[part, 1],
            self._corners[part],
            self._sizes[part],
            self._own(tile),
            self._num_channels,
        )

    def _of_runs(self, part: slice, offsets: NDArray[Any]) -> NDArray[Any]:
        """Return which reader each run is from."""
        return np.repeat(self._taken[part], len(offsets) // max(1, part.stop - part.start))

    def _pieces(
        self, part: slice, offsets: NDArray[Any], run_length: int, memory: Tensor
    ) -> Iterator[tuple[int, Tensor, NDArray[Any], int, Tensor]]:
        """Yield a reader's number and what `copy_runs` takes for runs of it that follow on."""
        runs = memory.view(len(offsets), run_length)
        if len(self._readers) == 1:  # as on most levels: nothing to look for
            yield 0, self._readers[0].values_to_gather, offsets, run_length, runs
            return
        taken = self._of_runs(part, offsets)
        changes = (np.flatnonzero(np.diff(taken)) + 1).tolist()
        for first, last in pairwise([0, *changes, len(taken)]):
            if first < last:
                number = int(taken[first])
                values = self._readers[number].values_to_gather
                yield number, values, offsets[first:last], run_length, runs[first:last]


class TileMemory:
    """Memory that is used again for block after block: a buffer for the tiles of each level.

    Each grows to the largest it has held. The first level's is on `device`; on a GPU all memory is
    new: torch knows when the streams that use it are done with it.
    """

    def __init__(
        self, dtypes: Sequence[torch.dtype], *, pin_memory: bool,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        first, *others = dtypes
        self._buffers = [torch.empty(0, dtype=first, device=device)]
        self._buffers += [torch.empty(0, dtype=dtype) for dtype in others]
        self._pin_memory = pin_memory

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def of(self, lengths: Sequence[int]) -> list[Tensor]:
        """Return each buffer's first values, [length]."""
        return [self._of(number, length) for number, length in enumerate(lengths)]

    def _of(self, number: int, length: int) -> Tensor:
        buffer = self._buffers[number]
        if buffer.is_cuda:
            return buffer.new_empty(length)
        if buffer.numel() < length:
            buffer = torch.empty(length, dtype=buffer.dtype, pin_memory=self._pin_memory)
            self._buffers[number] = buffer
        return buffer[:length]
