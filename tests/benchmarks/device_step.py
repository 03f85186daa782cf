"""A training step: on a batch that stays on the device, resident, streaming; its convolutions.

Default codec, bfloat16. The convolutions, forward and backward on random maps of the same shapes,
recorded as a CUDA graph, are the limit: whatever else a step does is beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from data.reading.transfer import Waiting, on_device
from tests.benchmarks.codec_training import Trainer, trainer
from tests.benchmarks.convolutions import convolutions_of
from tests.benchmarks.device_cache import STREAMED, laid_out, seconds_of, wait_for
from tests.benchmarks.report import Cell, Goal, Table, main

BATCH_SIZES = (32, 128)
LEVEL_SHAPES = {0: (64, 64), 4: (4, 4)}
NUM_SAMPLES = 2048
NUM_STEPS = 64  # a round
ROUNDS = 5
# Samples a second on an H100, beside convolutions of 2.1 and 4.6 ms.
GOALS = {32: 12_000, 128: 20_000}
SMALL = {
    "BATCH_SIZES": (2,), "LEVEL_SHAPES": {0: (16, 16), 4: (4, 4)}, "NUM_SAMPLES": 4,
    "NUM_STEPS": 2, "ROUNDS": 1, "codec_training.CODEC": {"n_hidden": 8, "n_channels": 12},
}  # fmt: skip


def run(folder: Path, device: str = "cuda") -> Iterator[Table]:
    """Measure the finest and the coarsest level."""
    cache = laid_out(folder / "cache", NUM_SAMPLES, LEVEL_SHAPES)
    for level in LEVEL_SHAPES:
        for batch_size in BATCH_SIZES:
            common = {"precision": "bfloat16", "batch_size": batch_size, "device": device}
            with trainer(cache, level, **common, resident="always") as training:
                resident = _fed(training, device)
            with trainer(cache, level, **common, **STREAMED) as training:
                yield _measure(training, resident, level, batch_size, device)


def _measure(
    training: Trainer, resident: tuple[float, float], level: int, batch_size: int, device: str
) -> Table:
    stream = training.session.stream
    batch, x = next(iter(on_device(stream, device, as_stored=True)))
    x = x.clone(memory_format=torch.channels_last)
    convolutions = convolutions_of(training.session.codec, x, torch.bfloat16)
    seconds = {
        "convolutions alone": seconds_of(convolutions, device, rounds=ROUNDS, calls=NUM_STEPS),
        "step, batch stays": seconds_of(
            lambda: training(batch, x), device, rounds=ROUNDS, calls=NUM_STEPS
        ),
    }
    seconds["step, level resident"], _ = resident
    seconds["step, streaming"], waited = _fed(training, device)
    limit = seconds["convolutions alone"]
    stays = seconds["step, batch stays"]
    rows: list[list[Cell]] = [
        [name, value * 1e3, batch_size / value, value / limit] for name, value in seconds.items()
    ]
    goals = []
    if level == 0:
        goals.append(
            Goal(
                what=f"level 0, batches of {batch_size}: samples/s of a batch that stays",
                ratio=batch_size / stays, at_least=GOALS.get(batch_size, 0),
            )
        )  # fmt: skip
        goals.append(
            Goal(
                what=f"level 0, batches of {batch_size}: streaming's samples/s / resident ones",
                ratio=seconds["step, level resident"] / seconds["step, streaming"], at_least=0.95,
            )
        )  # fmt: skip
    return Table(
        title=f"device_step: level {level}, batches of {batch_size}, waited {waited:.3f}",
        columns=["", "ms", "samples/s", "of convolutions"],
        rows=rows,
        goals=goals,
    )


def _fed(training: Trainer, device: str) -> tuple[float, float]:
    """Return the seconds of a step, and the share waited; epochs follow upon each other."""
    stream = training.session.stream
    taken, waits = [], []
    for number in range(ROUNDS + 1):
        waiting, num_steps = Waiting(), 0
        wait_for(device)
        start = time.perf_counter()
        while num_steps < NUM_STEPS:
            for item in on_device(stream, device, waiting, as_stored=True):
                training(*item)
                num_steps += 1
        wait_for(device)
        seconds = time.perf_counter() - start
        if number:
            taken.append(seconds / num_steps)
            waits.append(waiting.seconds / seconds)
    return median(taken), median(waits)


if __name__ == "__main__":
    main("device_step", run)
