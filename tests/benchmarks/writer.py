"""The writer alone, maps already computed, against writing the same stored bytes to one file."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.cache.commit_log import CommitLog
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.synthetic_cache import plan_cache, random_map

LEVEL_SHAPES = {0: (64, 64), 1: (32, 32), 2: (16, 16), 3: (8, 8), 4: (4, 4)}
NUM_UNITS = 3
UNIT_SAMPLES = 64  # with 128 MiB a shard
ROUNDS = 15  # some are disturbed: memory that the system has not used before takes long to get
_NAMES = ("CacheWriter", "one file")


def run(folder: Path) -> list[Table]:
    """Measure three units of five levels in each container; the units hold the same maps."""
    return [_measure(container, folder / container) for container in ("zarr", "hdf5")]


def _measure(container: str, folder: Path) -> Table:
    manifest, images = plan_cache(NUM_UNITS * UNIT_SAMPLES, LEVEL_SHAPES, container=container)
    folder.mkdir()
    maps = {
        level.index: [
            _as_computed(torch.from_numpy(random_map(row, manifest.sample_shape(level.index, 0))))
            for row in range(UNIT_SAMPLES)
        ]
        for level in manifest.levels
    }
    stored = [
        np.ascontiguousarray(tensor.half()) for tensors in maps.values() for tensor in tensors
    ]
    num_bytes = NUM_UNITS * sum(array.nbytes for array in stored)
    cache, raw = folder / "cache", folder / "raw"
    cores = os.cpu_count() or 1  # as beside a GPU; where the CPU computes, one writes

    def clear(name: str, number: int) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        raw.unlink(missing_ok=True)
        cache.mkdir()
        os.sync()  # what others left to be written is not to be waited for in the turn

    def write_cache(number: int) -> None:
        with CommitLog(cache) as log:
            settle_cache(cache, manifest, images, log, overwrite=False)
            with closing(CacheWriter(cache, manifest, log, num_threads=cores)) as writer:
                pending = writer.pending
                writer.prepare()
                for unit in pending:
                    assert unit.num_rows == UNIT_SAMPLES
                    writer.write(unit, maps)
                writer.finish()

    def write_raw(number: int) -> None:
        with raw.open("wb", buffering=0) as file:
            for _ in range(NUM_UNITS):
                for array in stored:
                    assert file.write(array.data) == array.nbytes
            os.fsync(file.fileno())

    turns = dict(zip(_NAMES, (timed(write_cache), timed(write_raw)), strict=True))
    seconds = medians(interleaved(turns, rounds=ROUNDS, before=clear))
    return Table(
        title=f"writer: {container}, {num_bytes / 1e6:.0f} MB in five levels",
        columns=["", "s", "GB/s"],
        rows=[[name, value, num_bytes / 1e9 / value] for name, value in seconds.items()],
        goals=[
            Goal(
                what="CacheWriter's rate / one file's",
                ratio=seconds["one file"] / seconds["CacheWriter"],
                at_least=0.7,
            )
        ],
    )


def _as_computed(sample: Tensor) -> Tensor:
    """Return [H, W, C] float32 as extraction has it: a view of the backbone's [C, H, W]."""
    return sample.float().permute(2, 0, 1).contiguous().permute(1, 2, 0)


if __name__ == "__main__":
    main("writer", run)
