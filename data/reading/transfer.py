"""Batches on the device that computes, without waiting for the copy."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from data.coding.byte_code import ByteCode
from data.reading.level_stream import Batch

Item = TypeVar("Item")

_STEPS_AHEAD = 2


class ByteDecoder:
    """Decodes on one device, on which it keeps each level's code."""

    def __init__(self, device: str | torch.device) -> None:
        self._device = torch.device(device)
        self._kept: dict[int, tuple[ByteCode, Tensor, Tensor]] = {}

    def values(self, stored: Tensor, code: ByteCode | None) -> Tensor:
        """Return the values of [B, C, H, W] channels_last, float32; without a code, cast alone."""
        values = stored.float()
        if code is not None:
            self.decode(values.permute(0, 2, 3, 1), code)
        return values

    def decode(self, numbers: Tensor, code: ByteCode) -> None:
        """Replace the bytes' numbers, float32 [..., C], by their values.

        In two steps, which round as `ByteCode` says: one alone would round otherwise on some
        devices.
        """
        scale, offset = self._on_device(code)
        numbers.mul_(scale).add_(offset)

    def _on_device(self, code: ByteCode) -> tuple[Tensor, Tensor]:
        # By identity, as a level's code is one object; with it, so that it is not another's later.
        kept = self._kept.get(id(code))
        if kept is None:
            kept = (
                code,
                torch.from_numpy(code.scales).to(self._device),
                torch.from_numpy(code.offsets).to(self._device),
            )
            self._kept[id(code)] = kept
        return kept[1], kept[2]


@dataclass(slots=True)
class Waiting:
    """Seconds in which who computes had no batch: on a GPU, the GPU itself."""

    seconds: float = 0.0


def on_device(
    batches: Iterable[Batch],
    device: str | torch.device,
    waiting: Waiting | None = None,
    *,
    as_stored: bool = False,
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its features on `device`, float32 [B, C, H, W] channels_last.

    `as_stored`: on a GPU in float16 where they are stored so, for a caller whose first kernel reads
    that as well: to convert them is a pass over three times the memory.
    Bytes are made values there, so that only they cross the link to a GPU. A batch with companions
    is a copy, whose `beside` are there too, of such dtypes and valid as long.

    On a CPU they are valid until the next batch is taken: their memory is used again, as the pages
    of fresh memory cost more than the conversion. To a GPU they are copied from pinned memory
    beside the computation, and not waited for until the next but one batch is taken: the stream
    has to keep two. `waiting` adds up what the caller waits on a CPU, for stream and conversion; of
    a GPU the time from the end of a step to the arrival of the next batch, by the GPU's own clock.
    """
    waiting = waiting or Waiting()
    target = torch.device(device)
    if target.type == "cpu":
        return _timed(_on_cpu(batches), waiting)
    return _on_gpu(batches, target, waiting, as_stored)


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
    batches: Iterable[Batch], device: torch.device, waiting: Waiting, as_stored: bool
) -> Iterator[tuple[Batch, Tensor]]:
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    decoder = ByteDecoder(device)
    copying: deque[torch.cuda.Event] = deque()
    computed: deque[torch.cuda.Event] = deque()
    idle = DeviceIdle(waiting)
    for batch in idle.first_timed(batches):
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(aside):
            features, *beside = (
                stored.to(device, non_blocking=True) for stored in (batch.features, *batch.beside)
            )
            copied = aside.record_event(_timed_event())
        computing.wait_event(copied)
        for arrived in (features, *beside):
            arrived.record_stream(computing)  # or its memory would be used again too soon
        copying.append(copied)
        idle.arrived(copied)
        as_is = as_stored and batch.code is None
        if beside:
            there = tuple(each if as_stored else each.float() for each in beside)
            batch = dataclasses.replace(batch, beside=there)
        yield batch, features if as_is else decoder.values(features, batch.code)
        while len(copying) > 1:
            copying.popleft().synchronize()
        # Asking is faster than computing: else batch upon batch would wait in the GPU's memory.
        done = computing.record_event(_timed_event())
        computed.append(done)
        idle.computed(done)
        while len(computed) > _STEPS_AHEAD:
            computed.popleft().synchronize()
            idle.add_up(_STEPS_AHEAD)
    while computed:
        computed.popleft().synchronize()
    idle.add_up(0)


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Event(Protocol):
    """A moment of a device, as torch.cuda.Event tells it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this one to another; negative if it came before."""


class DeviceIdle:
    """Adds up how long a device had nothing to compute as the next batch had not arrived.

    That is from the end of a step to the arrival of the next batch, if it arrived later; of the
    first batch, what the caller waited for it.
    """

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._done: Event | None = None
        self._pairs: deque[tuple[Event, Event]] = deque()

    def first_timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count the seconds that the first took to come."""
        iterator = iter(items)
        yield from itertools.islice(_timed(iterator, self._waiting), 1)
        yield from iterator

    def arrived(self, batch: Event) -> None:
        """Note the arrival of a batch: a moment that the device may yet have to come to."""
        if self._done is not None:
            self._pairs.append((self._done, batch))

    def computed(self, step: Event) -> None:
        """Note the end of the step on the latest batch."""
        self._done = step

    def add_up(self, num_under_way: int) -> None:
        """Count all batches but those of so many latest steps, which the device may not be at."""
        while len(self._pairs) > num_under_way:
            done, arrived = self._pairs.popleft()
            self._waiting.seconds += max(0.0, done.elapsed_time(arrived)) / 1000


def _on_cpu(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    memory, memories = _FloatMemory(), list[_FloatMemory]()
    decoder = ByteDecoder("cpu")
    for batch in batches:
        x = memory.converted(batch.features)
        if batch.code is not None:
            decoder.decode(x.permute(0, 2, 3, 1), batch.code)
        if batch.beside:
            memories += [_FloatMemory() for _ in batch.beside[len(memories) :]]
            there = (its.converted(each) for its, each in zip(memories, batch.beside, strict=False))
            batch = dataclasses.replace(batch, beside=tuple(there))
        yield batch, x


class _FloatMemory:
    """Memory that is used again, and grows to the largest batch that it has held."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def converted(self, features: Tensor) -> Tensor:
        """Return [B, C, H, W] channels_last in float32, valid until the next ones are."""
        if self._memory.numel() < features.numel():
            self._memory = torch.empty(features.numel())
        num, channels, height, width = features.shape
        converted = self._memory[: features.numel()].view(num, height, width, channels)
        converted.copy_(features.permute(0, 2, 3, 1))
        return converted.permute(0, 3, 1, 2)
