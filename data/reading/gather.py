"""Many tiles of many maps with one indexed copy.

A tile is [h, w, C] out of a stored map [H, W, C]; a tile larger than its map repeats the map's last
rows and columns. Whatever the mix of maps, a tile is a list of equally long runs of consecutive
values; all runs of all tiles are copied by a single `index_select`, which neither holds Python's
lock nor spends any Python on a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
