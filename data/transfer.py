"""Batches on the device that computes, without waiting for the copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from data.stream import Batch


def on_device(batches: Iterable[Batch], device: str) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its features on `device`, float32 [B, C, H, W] channels_last.

    Copies from pinned memory run beside the computation. The copy of a batch is waited for
    before the next but one is taken: the stream has to keep two.
    """
    copying: deque[torch.cuda.Event] = deque()
    for batch in batches:
        features = batch.features.to(device, non_blocking=True)
        if features.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            copying.append(event)
        yield batch, features.float()
        while len(copying) > 1:
            copying.popleft().synchronize()
