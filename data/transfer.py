"""Batches on the device that computes, without waiting for the copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from data.stream import Batch


def on_device(batches: Iterable[Batch], device: str) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its features on `device`, float32 [B, C, H, W] channels_last.

    On a CPU they are valid until the next batch is taken: their memory is used again, as the pages
    of fresh memory cost more than the conversion. Copies from pinned memory to a GPU are queued
    behind the computation and not waited for, until the next but one batch is taken: the stream has
    to keep two.
    """
    if device == "cpu":
        yield from _on_cpu(batches)
        return
    copying: deque[torch.cuda.Event] = deque()
    for batch in batches:
        features = batch.features.to(device, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # Without a stream it would be that of the current GPU, which need not be `device`.
        event.record(torch.cuda.current_stream(features.device))
        copying.append(event)
        yield batch, features.float()
        while len(copying) > 1:
            copying.popleft().synchronize()


def _on_cpu(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    memory = torch.empty(0)
    for batch in batches:
        features = batch.features
        if memory.numel() < features.numel():
            memory = torch.empty(features.numel())
        num, channels, height, width = features.shape
        converted = memory[: features.numel()].view(num, height, width, channels)
        converted.copy_(features.permute(0, 2, 3, 1))
        yield batch, converted.permute(0, 3, 1, 2)
