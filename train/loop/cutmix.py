"""CutMix (Yun et al., ICCV 2019) for feature maps, which stay where they are in the frame.

A codec learns which features come together in an image, and of few images too much of that. A map
of which a part is another image's has real features at their real places, in a company that none of
the images has.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cutmix(
    x: Tensor, sizes: Tensor, probability: float, *, first_row: int, batch_rows: int
) -> Tensor:
    """Return maps float32 [B, C, H, W], some with a part of their neighbour's; `x` stays as it is.

    Rows 2k and 2k + 1 are neighbours; the last row of an odd number has none. A seam at a random
    place runs across the map or down it; on one side of it, within both maps' real `sizes` int64
    [B, 2] on the CPU, lies the neighbour's part. The maps are the rows from `first_row` on of a
    batch of `batch_rows`, for all of which is drawn, so that ranks agree; a neighbour that another
    rank has is none.
    """
    draws = torch.rand(
        batch_rows, 4, dtype=torch.float64
    )  # on the CPU: the device is not waited for
    mixed = x.clone()
    for row in range(len(x)):
        neighbour = ((first_row + row) ^ 1) - first_row
        chance, direction, side, place = draws[first_row + row].tolist()
        if chance >= probability or not 0 <= neighbour < len(x):
            continue
        dim = int(direction < 0.5)
        shared = torch.minimum(sizes[row], sizes[neighbour]).tolist()
        if shared[dim] < 2:
            continue
        seam = 1 + int(place * (shared[dim] - 1))
        part = [slice(0, shared[0]), slice(0, shared[1])]
        part[dim] = slice(0, seam) if side < 0.5 else slice(seam, shared[dim])
        where = (slice(None), *part)
        mixed[row][where] = x[neighbour][where]
    return mixed
