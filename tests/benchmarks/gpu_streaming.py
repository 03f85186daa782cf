"""How fast level-0 crops come into pinned memory: by copying cores, from memory and a cold disk.

`python -m tests.benchmarks.gpu_streaming`. Crops are of two thirds of a map's side, so that each
row is a run of its own. The limits beside them: `index_select` of contiguous rows with the same
number of threads, and the link, pinned memory to the device.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from configs.cores import usable_cores
from data.reading.epoch_tiles import Epoch
from data.reading.level_reader import LevelReader
from data.reading.order import epoch_order
from data.reading.read_ahead import ReadAhead
from tests.benchmarks.accounting import evict, files_below
from tests.benchmarks.device_cache import laid_out, seconds_of
from tests.benchmarks.report import Cell, Goal, Table, main

BATCH_SIZE = 32
SIDE = 96
NUM_SAMPLES = 768
ROUNDS = 3
GOAL_GB_PER_S = 40.0
SMALL = {"BATCH_SIZE": 4, "SIDE": 8, "NUM_SAMPLES": 8, "ROUNDS": 1}


def run(folder: Path, device: str = "cuda") -> list[Table]:
    """Measure copies by number of cores."""
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="gpu_streaming", note=note, columns=[""], rows=[])]
    cache = laid_out(folder / "cache", NUM_SAMPLES, {0: (SIDE, SIDE)})
    return [_copies(cache, device, BATCH_SIZE, SIDE * 2 // 3, ROUNDS)]


def _copies(cache: Path, device: str, batch_size: int, crop: int, rounds: int) -> Table:
    most = usable_cores()
    rows: list[list[Cell]] = []
    best = 0.0
    with LevelReader(cache, 0) as reader:
        batch_bytes = batch_size * crop * crop * int(reader.shapes[0, 2]) * reader.dtype.itemsize
        link = _link(batch_bytes, device, rounds)
        for num_cores in sorted({1, 4, 8, most - 1, most} & set(range(1, most + 1))):
            limit = _index_select(batch_bytes, num_cores, rounds)
            warm = [
                _streamed(reader, batch_size, crop, num_cores, device, number)
                for number in range(rounds + 1)
            ]
            rate = median(warm[1:])
            best = max(best, rate)
            rows.append([f"{num_cores} cores, page cache", rate, limit, rate / limit, rate / link])
    for num_cores in sorted({1, max(1, most - 1)}):
        evict(files_below(cache))
        with LevelReader(cache, 0) as reader:  # pages that are mapped cannot be dropped
            rate = _streamed(reader, batch_size, crop, num_cores, device, 0)
        rows.append([f"{num_cores} cores, cold disk", rate, None, None, rate / link])
    return Table(
        title=f"gpu_streaming: crops into pinned memory, batches of {batch_bytes / 1e6:.1f} MB",
        note=f"{_name(device)}; the link takes {link:.1f} GB/s",
        columns=["", "GB/s", "index_select", "of that", "of the link"],
        rows=rows,
        goals=[
            Goal(what="GB/s, page cache / goal", ratio=best / GOAL_GB_PER_S, at_least=1.0),
        ],
    )


def _streamed(
    reader: LevelReader, batch_size: int, crop: int, num_cores: int, device: str, number: int
) -> float:
    """Return the GB a second of one epoch's batches, which nobody uses."""
    epoch = Epoch(
        reader, epoch_order(num_samples=reader.num_samples, seed=0, epoch=number), crop, 0, number,
        batch_size=batch_size, rank=0, num_ranks=1,
    )  # fmt: skip
    blocks = epoch.blocks(0)
    dtypes = [reader.values_to_gather.dtype]
    ahead = ReadAhead(dtypes, keep=2, pin_memory=device == "cuda", num_cores=num_cores)
    for _ in ahead.filled(epoch, blocks[: ahead.depth]):
        pass  # pinning memory takes its time, once a run
    start = time.perf_counter()
    num_bytes = sum(parts[0].nbytes for parts in ahead.filled(epoch, blocks))
    return num_bytes / 1e9 / (time.perf_counter() - start)


def _index_select(num_bytes: int, num_cores: int, rounds: int) -> float:
    """Return the GB a second of rows of 2 MB, contiguous, copied by so many threads of torch."""
    row = min(2**20, num_bytes // 2)
    source = torch.ones(max(1, num_bytes // 2 // row), row, dtype=torch.float16)
    order, out = torch.randperm(len(source)), torch.empty_like(source)
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores)
    try:
        seconds = seconds_of(
            lambda: torch.index_select(source, 0, order, out=out), "cpu", rounds=rounds, calls=1
        )
    finally:
        torch.set_num_threads(before)
    return source.nbytes / 1e9 / seconds


def _link(num_bytes: int, device: str, rounds: int) -> float:
    """Return the GB a second from pinned memory to the device."""
    source = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=device == "cuda")
    target = torch.empty_like(source, device=device)
    seconds = seconds_of(
        lambda: target.copy_(source, non_blocking=True), device, rounds=rounds, calls=1
    )
    return num_bytes / 1e9 / seconds


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    main("gpu_streaming", run)
