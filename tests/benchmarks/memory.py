"""Memory that streaming takes: it is to depend on the batches held, not on the cache's size."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from tests.benchmarks.accounting import anonymous_bytes, in_fresh_process
from tests.benchmarks.level_epoch import BATCH_SIZE, load_code
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache

SHAPE = (64, 64)
NUM_SAMPLES = 4096  # 8.6 GB
ALLOWED_BYTES = 100 * 10**6


def peak_growth(cache: Path) -> int:
    """Return how far anonymous memory rises above what the program takes before it opens a level.

    Sampled at each batch; pages of mapped files are the kernel's to take back and do not count.
    """
    load_code("zarr")
    before = anonymous_bytes()
    peak = before
    with LevelReader(cache, 0) as reader:
        for _ in LevelStream(reader, batch_size=BATCH_SIZE, crop=None, read_ahead=True):
            peak = max(peak, anonymous_bytes())
    return peak - before


def run(folder: Path) -> list[Table]:
    """Measure one epoch of whole maps in a fresh process."""
    manifest, images = plan_cache(NUM_SAMPLES, {0: SHAPE})
    sample_bytes = manifest.sample_bytes(0, 0)
    cache_bytes = NUM_SAMPLES * sample_bytes
    title = f"memory: streaming {cache_bytes / 1e9:.1f} GB"
    free = shutil.disk_usage(folder).free
    if free < 1.2 * cache_bytes:
        note = f"not measured: {folder} has {free / 1e9:.1f} GB free"
        return [Table(title=title, note=note, columns=["", "MB"], rows=[])]
    lay_out_cache(folder / "cache", manifest, images)
    growth = in_fresh_process(peak_growth, folder / "cache")
    batch_bytes = BATCH_SIZE * sample_bytes
    depth = 3  # with read_ahead: one with the caller, one ready, one being filled
    allowed = depth * batch_bytes + ALLOWED_BYTES
    return [
        Table(
            title=title,
            columns=["", "MB"],
            rows=[
                ["one batch", batch_bytes / 1e6],
                [f"allowed: {depth} batches + 100 MB", allowed / 1e6],
                ["peak growth of anonymous memory", growth / 1e6],
            ],
            goals=[Goal(what="growth / allowed", ratio=growth / allowed, at_most=1.0)],
        )
    ]


if __name__ == "__main__":
    main("memory", run)
