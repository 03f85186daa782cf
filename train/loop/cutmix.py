"""Maps of which a part is another image's, for codecs that learn of few images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cutmix(
    maps: Sequence[Tensor], sizes: Tensor, probability: float, *,
    first_row: int, batch_rows: int, strides: Sequence[int] = (1,),
) -> list[Tensor]:  # fmt: skip
    """Return maps [B, C, H, W], some with a part of their neighbour's; `maps` stay as they are.

    CutMix (Yun et al., ICCV 2019) for feature maps, which stay where they are in the frame. A codec
    learns which features come together in an image, and of few images too much of that. A map of
    which a part is another image's has real features at their real places, in a company that none
    of the images has.

    Rows 2k and 2k + 1 are neighbours; the last row of an odd number has none. A seam at a random
    place runs across the map or down it; on one side of it, within both maps' real `sizes` int64
    [B, 2] on the CPU, lies the neighbour's part. The maps are the rows from `first_row` on of a
    batch of `batch_rows`, for all of which is drawn, so that ranks agree; a neighbour that another
    rank has is none.

    Behind the level's own maps come those of its context, with their `strides` in its positions:
    the same parts are taken of them, whose edges are then multiples of all strides.
    """
    # On the CPU: the device is not waited for.
    draws = torch.rand(batch_rows, 4, dtype=torch.float64)
    step = math.lcm(*strides)
    mixed = [each.clone() for each in maps]
    for row in range(len(sizes)):
        neighbour = ((first_row + row) ^ 1) - first_row
        chance, direction, side, place = draws[first_row + row].tolist()
        if chance >= probability or not 0 <= neighbour < len(sizes):
            continue
        dim = int(direction < 0.5)
        shared = [
            mine if mine == its else min(mine, its) // step * step
            for mine, its in zip(sizes[row].tolist(), sizes[neighbour].tolist(), strict=True)
        ]
        num_places = -(-shared[dim] // step)
        if num_places < 2:
            continue
        seam = step * (1 + int(place * (num_places - 1)))
        part = [(0, shared[0]), (0, shared[1])]
        part[dim] = (0, seam) if side < 0.5 else (seam, shared[dim])
        for each, original, stride in zip(mixed, maps, strides, strict=True):
            where = (slice(None), *(slice(a // stride, -(-b // stride)) for a, b in part))
            each[row][where] = original[neighbour][where]
    return mixed
