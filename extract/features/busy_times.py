"""How long each stage of an extraction was at work, to tell which of them it waited for."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

STAGES = ("decode", "backbone", "copy", "write")


class BusyTimes:
    """Seconds that each stage was at work; many threads add to them.

    `decode` and, on a CPU, `backbone` add up what each of their threads worked; on a GPU `backbone`
    (with resizing, the cast and its sums) and `copy` (to the CPU) are measured by the GPU itself;
    `write` is one thread, which checksums, writes and syncs with the help of others.
    """

    def __init__(self) -> None:
        self.num_threads: dict[str, int] = {}
        """Of stages that have several."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Add what a stage has worked once more."""
        with self._lock:
            self._seconds[stage] += seconds

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def shares(self, wall_s: float) -> dict[str, float]:
        """Return {stage: the share of the time in which it was at work}, without those never used.

        Of a stage with several threads it is their mean. Stages overlap: each may reach 1.
        """
        return {
            stage: self._seconds[stage] / max(1e-9, wall_s) / self.num_threads.get(stage, 1)
            for stage in STAGES
            if self._seconds[stage] > 0
        }


class DeviceTime:
    """The time from its making to `stop` as the device's current stream sees it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._start = self._end = self._now()

    def stop(self) -> None:
        """Take the end of what the device has been asked for by now."""
        self._end = self._now()

    @property
    def seconds(self) -> float:
        """Return the time, once the device has reached its end."""
        if self._stream is None:
            return float(self._end - self._start)
        return float(self._start.elapsed_time(self._end)) / 1e3

    def _now(self) -> Any:
        """Return seconds of this machine's clock, or an event of the device."""
        if self._stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return self._stream.record_event(event)
