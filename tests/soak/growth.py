"""What a process holds, read again and again while it works, and whether that grows."""

from __future__ import annotations

import csv
import gc
import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from tests.benchmarks.accounting import anonymous_bytes

ALLOWED_BYTES = 16 * 2**20
"""Growth of memory over a whole job: of 10,000 steps, 1.7 kB each."""
_WARM_UP = 0.2  # share of the readings
# What is there only while something is written, or decoded for a moment.
_PASSING = re.compile(r"(\.part|\.new|\.lock)$|^\.(new|decoded|anchor|dry-run)-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the process holds after `done` pieces of work."""

    done: int
    memory_bytes: int
    num_handles: int
    num_threads: int
    num_temporary: int


class Watch:
    """Takes a reading every `every` pieces of work; `tick` counts them.

    Temporary is all that lies in the system's folder for it, and what in `folder` is named so.
    `out` gets a row of each reading at once: who stops long work knows what it has shown.
    """

    def __init__(self, folder: Path, *, every: int = 1, out: Path | None = None) -> None:
        self.readings: list[Reading] = []
        self._folder = folder
        self._every = every
        self._out = out
        self._done = 0
        self._write([field.name for field in fields(Reading)], mode="w")

    def tick(self, times: int = 1) -> None:
        """Count pieces of work."""
        before, self._done = self._done, self._done + times
        if before // self._every != self._done // self._every:
            self.readings.append(self._reading())
            self._write(asdict(self.readings[-1]).values())

    def _write(self, row: Iterable[object], mode: str = "a") -> None:
        if self._out is not None:
            with self._out.open(mode, newline="") as file:
                csv.writer(file).writerow(row)

    def _reading(self) -> Reading:
        gc.collect()  # what waits for it would go anyway
        passing = [path for path in self._folder.rglob("*") if _PASSING.search(path.name)]
        return Reading(
            done=self._done,
            memory_bytes=anonymous_bytes(),
            num_handles=_num_entries(Path("/proc/self/fd")),
            num_threads=threading.active_count(),
            num_temporary=len(passing) + _num_entries(Path(tempfile.gettempdir())),
        )


def _num_entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def warm(readings: Sequence[Reading]) -> Sequence[Reading]:
    """Return the readings after the first fifth: until then things are made that stay."""
    return readings[int(np.ceil(len(readings) * _WARM_UP)) :]


def memory_growth_bytes(readings: Sequence[Reading]) -> float:
    """Return by how much memory grows from the first to the last: by a line through them all."""
    done = np.array([each.done for each in readings], dtype=np.float64)
    memory = np.array([each.memory_bytes for each in readings], dtype=np.float64)
    return float(np.polyfit(done - done.mean(), memory, 1)[0] * np.ptp(done))


def what_grows(readings: Sequence[Reading]) -> list[str]:
    """Return a line for each thing of which there is more and more, once it is warm."""
    readings = warm(readings)
    found = []
    if (growth := memory_growth_bytes(readings)) > ALLOWED_BYTES:
        found.append(f"memory: {growth / 2**20:.1f} MiB, allowed: {ALLOWED_BYTES / 2**20:.0f}")
    split = len(readings) * 2 // 3
    for name in ("num_handles", "num_threads", "num_temporary"):
        before, after = (
            max(getattr(each, name) for each in part)
            for part in (readings[:split], readings[split:])
        )
        if after > before:
            found.append(f"{name}: at most {before} in the first two thirds, then {after}")
    return found
