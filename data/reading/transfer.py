"""Batches on the device that computes, without waiting for the copy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from data.reading.byte_decoder import ByteDecoder
from data.reading.level_stream import Batch

Item = TypeVar("Item")

_STEPS_AHEAD = 2


@dataclass(slots=True)
class Waiting:
    """Seconds in which batches were made ready, while whoever wanted one waited."""

    seconds: float = 0.0


def on_device(
    batches: Iterable[Batch], device: str | torch.device, waiting: Waiting | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its features on `device`, float32 [B, C, H, W] channels_last.

    Bytes are made values there, so that only they cross the link to a GPU.

    On a CPU they are valid until the next batch is taken: their memory is used again, as the pages
    of fresh memory cost more than the conversion. To a GPU they are copied from pinned memory
    beside the computation, and not waited for until the next but one batch is taken: the stream
    has to keep two. `waiting` adds up what the caller waits, for the stream and on a CPU for the
    conversion.
    """
    waiting = waiting or Waiting()
    target = torch.device(device)
    if target.type == "cpu":
        return _timed(_on_cpu(batches), waiting)
    return _on_gpu(batches, target, waiting)


def _timed(items: Iterable[Item], waiting: Waiting) -> Iterator[Item]:
    """Yield the items, and count the seconds that each took to come."""
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        waiting.seconds += time.perf_counter() - start
        yield item


def _on_gpu(
    batches: Iterable[Batch], device: torch.device, waiting: Waiting
) -> Iterator[tuple[Batch, Tensor]]:
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    decoder = ByteDecoder(device)
    copying: deque[torch.cuda.Event] = deque()
    computed: deque[torch.cuda.Event] = deque()
    # The stream alone is timed: a GPU that is still busy with the step before is not waited for.
    for batch in _timed(batches, waiting):
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(beside):
            features = batch.features.to(device, non_blocking=True)
            copied = beside.record_event()
        computing.wait_event(copied)
        features.record_stream(computing)  # or its memory would be used again too soon
        copying.append(copied)
        yield batch, decoder.values(features, batch.code)
        while len(copying) > 1:
            copying.popleft().synchronize()
        # Asking is faster than computing: else batch upon batch would wait in the GPU's memory.
        computed.append(computing.record_event())
        while len(computed) > _STEPS_AHEAD:
            computed.popleft().synchronize()


def _on_cpu(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    memory = torch.empty(0)
    decoder = ByteDecoder("cpu")
    for batch in batches:
        features = batch.features
        if memory.numel() < features.numel():
            memory = torch.empty(features.numel())
        num, channels, height, width = features.shape
        converted = memory[: features.numel()].view(num, height, width, channels)
        converted.copy_(features.permute(0, 2, 3, 1))
        if batch.code is not None:
            decoder.decode(converted, batch.code)
        yield batch, converted.permute(0, 3, 1, 2)
