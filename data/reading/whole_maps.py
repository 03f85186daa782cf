"""Whole maps in order, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.reading.companion import Companion
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch

# Whole maps of a fine level are far larger than crops; 64 MiB in float32 keep a device busy.
_MOST_VALUES = 16 * 2**20


_BATCHES_AHEAD = 4  # are on their way from a remote cache


def whole_map_batches(
    reader: LevelReader,
    batch_size: int,
    indices: Sequence[int] | None = None,
    beside: Sequence[Companion] = (),
) -> Iterator[Batch]:
    """Yield every sample's values once as whole maps, one shape at a time, in the manifest's order.

    A batch is of at most `batch_size` maps, and of at most 16 Mi values, but of one map at least:
    what it takes does not grow with the batches of crops that training takes.

    `beside`: what is read with each sample; of several caches that take turns, it takes the one
    that its number says, always the same. Raises CacheError as `LevelStream` does.
    """
    for companion in beside:
        companion.require_beside(reader)
    wanted = range(reader.num_samples) if indices is None else indices
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index in wanted:
        by_shape.setdefault(reader.shape(index), []).append(index)
    for (height, width, channels), members in by_shape.items():
        num_maps = max(1, min(batch_size, _MOST_VALUES // (height * width * channels)))
        for start in range(0, len(members), num_maps):
            group = members[start : start + num_maps]
            reader.expect(members[start : start + _BATCHES_AHEAD * num_maps])
            yield Batch(
                features=_stacked([reader.sample(index) for index in group]),
                indices=torch.tensor(group),
                sizes=torch.tensor([[height, width]] * len(group)),
                corners=torch.zeros(len(group), 2, dtype=torch.int64),
                level=reader.info.index,
                first_row=0,
                batch_rows=len(group),
                batch_positions=height * width * len(group),
                beside=tuple(
                    _stacked([companion.whole_map(index) for index in group])
                    for companion in beside
                ),
            )


def _stacked(maps: Sequence[NDArray[Any]]) -> Tensor:
    """Return maps [H, W, C] of one shape as [B, C, H, W] channels_last, a copy."""
    return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2)
