"""Verifying a cache against its checksums, beside merely reading the same files; cache warm."""

from __future__ import annotations

from pathlib import Path

from data.verification.check import verify_cache
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.sequential_read import read_through
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache, shard_files

LEVEL_SHAPES = {0: (64, 64), 1: (32, 32), 2: (16, 16), 3: (8, 8), 4: (4, 4)}
NUM_SAMPLES = 384  # 1.1 GB


def run(folder: Path) -> list[Table]:
    """Measure five levels in each container."""
    return [_measure(container, folder / container) for container in ("zarr", "hdf5")]


def _measure(container: str, cache: Path) -> Table:
    title = f"verify: {container}, cache warm"
    manifest, images = plan_cache(NUM_SAMPLES, LEVEL_SHAPES, container=container)
    lay_out_cache(cache, manifest, images)
    shards = [path for level in LEVEL_SHAPES for path in shard_files(cache, manifest, level)]
    num_bytes = sum(path.stat().st_size for path in shards)

    def verify(number: int) -> None:
        assert not verify_cache(cache).damages

    seconds = medians(
        interleaved(
            {"verify": timed(verify), "read": timed(lambda number: read_through(shards))}
        )
    )  # fmt: skip
    return Table(
        title=title,
        columns=["", "s", "GB/s"],
        rows=[[name, value, num_bytes / 1e9 / value] for name, value in seconds.items()],
        goals=[
            Goal(
                what="verifying's rate / reading's",
                ratio=seconds["read"] / seconds["verify"],
                at_least=0.5,
            )
        ],
    )


if __name__ == "__main__":
    main("verify", run)
