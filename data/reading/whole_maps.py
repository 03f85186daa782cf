"""Whole maps for evaluation, one shape at a time, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch


def whole_map_batches(
    reader: LevelReader, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yield every sample once as whole maps, one shape at a time, in the order of the manifest."""
    wanted = range(reader.num_samples) if indices is None else indices
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index in wanted:
        by_shape.setdefault(reader.shape(index), []).append(index)
    for (height, width, _), members in by_shape.items():
        for start in range(0, len(members), batch_size):
            group = members[start : start + batch_size]
            stacked = np.stack([reader.sample(index) for index in group])
            yield Batch(
                features=torch.from_numpy(stacked).permute(0, 3, 1, 2),
                indices=torch.tensor(group),
                sizes=torch.tensor([[height, width]] * len(group)),
                level=reader.info.index,
                first_row=0,
                batch_rows=len(group),
                batch_positions=height * width * len(group),
            )
