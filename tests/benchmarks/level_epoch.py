"""One epoch of a level through LevelStream, and getting a process ready to count what it costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from tests.benchmarks.synthetic_cache import plan_cache, write_cache

BATCH_SIZE = 8


def stream_epoch(
    cache: Path, level: int, *, crop: int | None = None, epoch: int = 0, **options: Any
) -> int:
    """Open a level, take each batch of one epoch, close it; return how many samples came.

    `options` go to LevelStream as they are.
    """
    with LevelReader(cache, level) as reader:
        stream = LevelStream(reader, batch_size=BATCH_SIZE, crop=crop, **options)
        stream.set_epoch(epoch)
        return sum(len(batch.features) for batch in stream)


def load_code(container: str) -> None:
    """Stream a tiny cache, so that every module that is imported late has been read."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "tiny"
        write_cache(cache, *plan_cache(2, {0: (4, 4)}, container=container, num_channels=4))
        stream_epoch(cache, 0)
