"""How fast train-level's stream fills pinned memory with level-0 crops, files in the page cache.

Beside it the limits of the machine: copying contiguous rows of two megabytes from memory to memory
in more and more threads, and the link to the GPU. Maps of 64x64 positions are taken whole, each a
row of its file; of 200x336 positions a crop is 64 rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from configs.cores import usable_cores
from tests.benchmarks.codec_training import trainer
from tests.benchmarks.device_cache import STREAMED, laid_out, seconds_of
from tests.benchmarks.report import Cell, Goal, Table, main

BATCH_SIZE = 32
CROP = 64
MAPS = {(64, 64): 1024, (200, 336): 64}
ROUNDS = 5
NUM_ROWS = 1024
ROW_VALUES = CROP * CROP * 256
LEAST_GB_S = 40.0
SMALL = {"BATCH_SIZE": 2, "MAPS": {(64, 64): 4}, "ROUNDS": 1, "NUM_ROWS": 4}


def run(folder: Path, device: str = "cuda") -> Iterator[Table]:
    """Measure the limits first: they say what the rest is worth."""
    limits = {f"copy, {threads} threads": _copied(threads, device) for threads in _threads()}
    limits["link to the device"] = _over_the_link(device)
    streams = {
        f"stream, maps of {shape[0]}x{shape[1]}": _streamed(folder / str(shape[0]), shape, device)
        for shape in MAPS
    }
    best = max(limits.values())
    rows: list[list[Cell]] = [
        [name, value, value / best] for name, value in {**limits, **streams}.items()
    ]
    yield Table(
        title=f"pinned_crops: {CROP}x{CROP} of level 0, batches of {BATCH_SIZE}",
        columns=["", "GB/s", "of the largest limit"],
        rows=rows,
        goals=[
            Goal(what=f"{name}, GB/s", ratio=value, at_least=LEAST_GB_S)
            for name, value in streams.items()
        ],
    )


def _threads() -> list[int]:
    """Return 4, 8, ... up to all cores, which are always among them."""
    most = usable_cores()
    return sorted({most, *(number for number in (4, 8, 16) if number < most)})


def _copied(num_threads: int, device: str) -> float:
    """Return GB/s of gathering rows at random places into one batch."""
    rows = torch.ones(NUM_ROWS, ROW_VALUES, dtype=torch.float16)
    batch = torch.empty(BATCH_SIZE, ROW_VALUES, dtype=torch.float16, pin_memory=device != "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        picks = iter(torch.randperm(NUM_ROWS).repeat(8 * (ROUNDS + 1)).split(BATCH_SIZE))
        seconds = seconds_of(
            lambda: torch.index_select(rows, 0, next(picks), out=batch), "cpu",
            rounds=ROUNDS, calls=max(1, NUM_ROWS // BATCH_SIZE),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return batch.nbytes / 1e9 / seconds


def _over_the_link(device: str) -> float:
    """Return GB/s of copying a batch from pinned memory to the device."""
    batch = torch.empty(BATCH_SIZE, ROW_VALUES, dtype=torch.float16, pin_memory=device != "cpu")
    there = torch.empty_like(batch, device=device)
    copy = lambda: there.copy_(batch, non_blocking=True)  # noqa: E731
    return batch.nbytes / 1e9 / seconds_of(copy, device, rounds=ROUNDS, calls=16)


def _streamed(cache: Path, shape: tuple[int, int], device: str) -> float:
    """Return GB/s of the stream that training takes, its batches not used."""
    laid_out(cache, MAPS[shape], {0: shape})
    with trainer(
        cache, 0, precision="bfloat16", batch_size=BATCH_SIZE, device=device, crop=CROP, **STREAMED
    ) as training:
        stream = training.session.stream

        def epoch() -> None:
            assert sum(batch.batch_rows for batch in stream) == MAPS[shape]

        seconds = seconds_of(epoch, "cpu", rounds=ROUNDS, calls=max(1, 256 // MAPS[shape]))
    return MAPS[shape] * ROW_VALUES * 2 / 1e9 / seconds


if __name__ == "__main__":
    main("pinned_crops", run)
