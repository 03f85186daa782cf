"""Batches of equal maps, to a device and back: a GPU that gets single maps mostly waits for more.

A convolution may round otherwise in a batch of another size. So batches are a function of the split
alone: whoever computes the same maps again, of all images or of some windows, computes them in the
same batches. A bitstream does not depend on them: all that a decoder derives from the symbols is
computed exactly (`train.codecs.hyperprior`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyze.maps.map_source import as_batch
from data.reading.level_reader import LevelReader

WINDOW = 64
"""Images, from a multiple of as many on, among which equal maps are looked for."""
_MOST_POSITIONS = 2**17  # 128 MiB of 256 channels in float32: small GPUs take several batches

Batch = tuple[int, ...]
"""Numbers of samples whose maps are of one size."""


def batches(reader: LevelReader, indices: Sequence[int], device: str) -> list[Batch]:
    """Return the samples `indices`, rising, in batches; on a CPU each is one of its own.

    There a map alone is as fast, and results do not depend on its neighbours to the last bit.
    """
    if torch.device(device).type == "cpu":
        return [(index,) for index in indices]
    return equal_batches([reader.shape(index)[:2] for index in indices], indices)


def equal_batches(sizes_hw: Sequence[tuple[int, int]], indices: Sequence[int]) -> list[Batch]:
    """Return the samples `indices`, of these sizes, by window and size, none too large at once."""
    alike: dict[tuple[int, tuple[int, int]], list[int]] = {}
    for size_hw, index in zip(sizes_hw, indices, strict=True):
        alike.setdefault((index // WINDOW, size_hw), []).append(index)
    made: list[Batch] = []
    for (_, (height, width)), members in alike.items():
        most = max(1, _MOST_POSITIONS // (height * width))
        made += [tuple(members[at : at + most]) for at in range(0, len(members), most)]
    return made


def on_device(reader: LevelReader, batch: Batch, device: str) -> Tensor:
    """Return the maps of a batch, float32 [B, C, H, W] on the device."""
    if torch.device(device).type == "cpu":
        (index,) = batch
        return as_batch(reader.sample(index))
    return _sent(np.stack([reader.sample(index) for index in batch]), device)


def one_on_device(values: NDArray[Any], device: str) -> Tensor:
    """Return a map [H, W, C] as float32 [1, C, H, W] on the device."""
    if torch.device(device).type == "cpu":
        return as_batch(values)
    return _sent(np.array(values)[None], device)


def _sent(stored: NDArray[Any], device: str) -> Tensor:
    """Send what is stored, from pinned memory beside what the GPU computes; it makes float32."""
    arrived = torch.from_numpy(stored).pin_memory().to(device, non_blocking=True)
    return arrived.permute(0, 3, 1, 2).float()


def on_host(maps: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return maps float32 [B, C, H, W] as [B, H, W, C]: from a GPU in `dtype`, else in float32.

    A GPU clips what is beyond float16's range, so that only stored bytes cross the link.
    """
    maps = maps.permute(0, 2, 3, 1)
    if maps.device.type == "cpu":
        return maps.numpy()
    if dtype == np.float16:
        limit = float(np.finfo(np.float16).max)
        maps = maps.clamp(-limit, limit).half()
    host = torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True)
    host.copy_(maps, non_blocking=True)
    torch.cuda.current_stream(maps.device).synchronize()
    return host.numpy()
