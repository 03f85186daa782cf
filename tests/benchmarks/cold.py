"""Files that are not in memory: sequential reading, a full shuffle, a shuffle shard by shard.

Each turn starts with the cache's files dropped from the page cache. That they came from the disk is
shown, not assumed: the kernel counts the bytes. (A virtual disk may still be cached by its host.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.benchmarks.accounting import BytesRead, evict, files_below
from tests.benchmarks.level_epoch import load_code, stream_epoch
from tests.benchmarks.report import Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.sequential_read import read_through
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache, shard_files

SHAPE = (64, 64)
NUM_SAMPLES = 768  # 1.6 GB
ROUNDS = 5


def run(folder: Path) -> list[Table]:
    """Measure a Zarr cache of one level."""
    cache = folder / "cache"
    manifest, images = plan_cache(NUM_SAMPLES, {0: SHAPE})
    lay_out_cache(cache, manifest, images)
    load_code("zarr")
    files = files_below(cache)
    shards = shard_files(cache, manifest, 0)
    num_bytes = NUM_SAMPLES * manifest.sample_bytes(0, 0)
    from_disk: dict[str, list[int]] = {}

    def counting(name: str, read: Callable[[int], object]) -> Callable[[int], float]:
        def run_counted(number: int) -> float:
            before = BytesRead.until_now()
            seconds = timed(read)(number)
            from_disk.setdefault(name, []).append(BytesRead.until_now().since(before).from_disk)
            return seconds

        return run_counted

    readers: dict[str, Callable[[int], object]] = {
        "sequential, 8 MiB blocks": lambda number: read_through(shards),
        "ours, full shuffle": lambda number: stream_epoch(cache, 0, epoch=number),
        "ours, shuffled by shards": lambda number: stream_epoch(
            cache, 0, epoch=number, shuffle="shards"
        ),
    }
    seconds = medians(
        interleaved(
            {name: counting(name, read) for name, read in readers.items()},
            rounds=ROUNDS,
            before=lambda name, number: evict(files),
        )
    )
    sequential = seconds["sequential, 8 MiB blocks"]
    return [
        Table(
            title=f"cold: {num_bytes / 1e9:.1f} GB that are not in memory",
            columns=["reader", "GB/s", "of sequential", "from disk / bytes"],
            rows=[
                [
                    name,
                    num_bytes / 1e9 / value,
                    sequential / value,
                    median(from_disk[name]) / num_bytes,
                ]
                for name, value in seconds.items()
            ],
        )
    ]


if __name__ == "__main__":
    main("cold", run)
