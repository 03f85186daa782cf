"""A training step on a batch that stays on the GPU: asked for or recorded, compiled or not.

`python -m tests.benchmarks.gpu_step`. Default codec, level 0, bfloat16. The time to compile is that
of the first step, with what was kept before; set TORCHINDUCTOR_CACHE_DIR to an empty folder to know
what the very first run waits. The share of the peak is that of the convolutions' arithmetic.
"""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from data.reading.transfer import on_device
from tests.benchmarks.codec_training import trainer
from tests.benchmarks.device_cache import laid_out, wait_for
from tests.benchmarks.gpu import peak_flops
from tests.benchmarks.report import Cell, Goal, Table, main

BATCH_SIZES = (32, 128)
SHAPE = (64, 64)
NUM_STEPS = 30  # a round
ROUNDS = 5
STEPS_BEFORE = 5  # compiled and recorded in these
GOALS = {32: 12_000, 128: 20_000}
"""Samples a second on an H100, of the fastest way."""
COMPILED = (False, True)
SMALL = {
    "BATCH_SIZES": (2,), "SHAPE": (16, 16), "NUM_STEPS": 1, "ROUNDS": 1, "STEPS_BEFORE": 1,
    "COMPILED": (False,), "codec_training.CODEC": {"n_hidden": 8, "n_channels": 12},
}  # fmt: skip


def run(folder: Path, device: str = "cuda") -> list[Table]:
    """Measure level 0 in batches of each size."""
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="gpu_step", note=note, columns=[""], rows=[])]
    peak = peak_flops(device)
    cache = laid_out(folder / "cache", max(BATCH_SIZES), {0: SHAPE})
    return [_measure(cache, batch_size, device, peak) for batch_size in BATCH_SIZES]


def _measure(cache: Path, batch_size: int, device: str, peak: float) -> Table:
    rows: list[list[Cell]] = []
    rates, flops = [], _flops(cache, batch_size, device)
    for compiled, recorded in product(COMPILED, (False, True)):
        if recorded and device == "cpu":
            continue
        first, seconds = _step(cache, batch_size, device, compiled, recorded)
        rates.append(batch_size / seconds)
        way = ", ".join((
            "compiled" if compiled else "not compiled", "recorded" if recorded else "asked for"
        ))  # fmt: skip
        tflops = flops / seconds / 1e12
        rows.append([way, first, seconds * 1e3, rates[-1], tflops, tflops * 1e12 / peak])
    fastest = Goal(
        what=f"level 0, batches of {batch_size}: samples/s of the fastest way",
        ratio=max(rates), at_least=GOALS.get(batch_size, 0),
    )  # fmt: skip
    return Table(
        title=f"gpu_step: level 0, batches of {batch_size}, peak {peak / 1e12:.1f} TFLOP/s",
        columns=["", "s to compile", "ms", "samples/s", "TFLOP/s", "of peak"],
        rows=rows,
        goals=[fastest],
    )


def _step(
    cache: Path, batch_size: int, device: str, compiled: bool, recorded: bool
) -> tuple[float | None, float]:
    """Return the seconds of the first step, where it compiles, and of a later one."""
    with trainer(
        cache, 0, precision="bfloat16", batch_size=batch_size, device=device, compile=compiled,
        cuda_graphs=recorded,
    ) as training:  # fmt: skip
        batch, x = next(iter(on_device(training.session.stream, device, as_stored=True)))
        x = x.clone(memory_format=torch.channels_last)

        def seconds_of(num_steps: int) -> float:
            start = time.perf_counter()
            for _ in range(num_steps):
                training(batch, x)
            wait_for(device)
            return (time.perf_counter() - start) / num_steps

        first = seconds_of(1)
        seconds_of(STEPS_BEFORE)
        return first if compiled else None, median(seconds_of(NUM_STEPS) for _ in range(ROUNDS))


def _flops(cache: Path, batch_size: int, device: str) -> int:
    """Return the floating point operations of a step's convolutions and products, as counted."""
    with trainer(
        cache, 0, precision="bfloat16", batch_size=batch_size, device=device, cuda_graphs=False
    ) as training:
        item = next(iter(on_device(training.session.stream, device, as_stored=True)))
        with FlopCounterMode(display=False) as counter:
            training(*item)
    return counter.get_total_flops()


if __name__ == "__main__":
    main("gpu_step", run)
