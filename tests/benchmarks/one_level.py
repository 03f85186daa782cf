"""Training one level reads that level: bytes that opening and streaming it take from cold files."""

from __future__ import annotations

from pathlib import Path

from data.cache.plan import level_bytes
from tests.benchmarks.accounting import BytesRead, evict, files_below, in_fresh_process
from tests.benchmarks.level_epoch import load_code, stream_epoch
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache

# 537 MB and 134 MB: beside them the manifest's few bytes weigh as little as in a real cache.
LEVEL_SHAPES = {0: (64, 64), 1: (32, 32)}
NUM_SAMPLES = 256


def bytes_of_an_epoch(cache: Path, container: str, level: int) -> BytesRead:
    """Open a level and stream one epoch of whole maps; nothing of the cache is in memory."""
    load_code(container)
    evict(files_below(cache))
    before = BytesRead.until_now()
    assert stream_epoch(cache, level) == NUM_SAMPLES
    return BytesRead.until_now().since(before)


def run(folder: Path) -> list[Table]:
    """Measure both levels in both containers, each in a fresh process."""
    rows: list[list[Cell]] = []
    goals = []
    for container in ("zarr", "hdf5"):
        cache = folder / container
        manifest, images = plan_cache(NUM_SAMPLES, LEVEL_SHAPES, container=container)
        lay_out_cache(cache, manifest, images)
        for level in LEVEL_SHAPES:
            read = in_fresh_process(bytes_of_an_epoch, cache, container, level)
            size = level_bytes(manifest, level)
            what = f"{container}, level {level}"
            rows.append([what, size / 1e6, read.from_disk / 1e6, read.by_calls / 1e6])
            goals.append(Goal(what=f"{what}: read / its", ratio=read.larger / size, at_most=1.02))
    return [
        Table(
            title="one_level: bytes of opening a level and one epoch of whole maps",
            note="read is the larger of both counts: what came by read() from the disk is in each",
            columns=["", "samples MB", "from disk MB", "by read() MB"],
            rows=rows,
            goals=goals,
        )
    ]


if __name__ == "__main__":
    main("one_level", run)
