"""Units whose bytes are handed over: who computes them does not see the files of the cache.

The one with the log writes them to their places (`CacheWriter.take_over`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.system.threads import limit_cores
from data.writing.handed_out import DueUnits, UnitDone, UnitDue
from data.writing.unit_writer import Map


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageBytes:
    """What is to be written of an image."""

    unit: int
    row: int
    """In its bucket."""
    samples: Mapping[int, NDArray[Any]]
    """{level that is due: uint8 [bytes], as they are stored}"""


class BytesOfUnits:
    """Computes what is to be written of units that were handed out, in any order."""

    def __init__(self, manifest: Manifest, due: Sequence[UnitDue], *, num_threads: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, initializer=limit_cores, initargs=(1,))
        self._kept = {level.index: _Kept() for level in manifest.levels}
        self._units = DueUnits(manifest, due, lambda _, level: self._kept[level], self._pool)

    def write(self, unit: Unit, maps: Mapping[int, Sequence[Map]]) -> list[ImageBytes | UnitDone]:
        """Return what is to be written of a unit's next rows, and last what became of the unit.

        Raises as `UnitWriter.write`.
        """
        done = self._units.write(unit, maps)
        images: dict[int, dict[int, NDArray[Any]]] = defaultdict(dict)
        for level, kept in self._kept.items():
            for row, content in kept.samples.items():
                images[row][level] = content
            kept.samples.clear()
        return [
            *(ImageBytes(unit=unit.index, row=row, samples=images[row]) for row in sorted(images)),
            *([] if done is None else [done]),
        ]

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()


class _Kept:
    """Stands for a level's shards: keeps what is written, {row: uint8 [bytes]}."""

    def __init__(self) -> None:
        self.samples: dict[int, NDArray[Any]] = {}

    def write(self, row: int, content: memoryview) -> None:
        self.samples[row] = np.array(content, np.uint8)
