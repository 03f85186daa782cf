"""A step while streaming against the same step on one batch that stays, per level.

Default codec and settings, batches of 8 from a real cache (ResNet-50-FPN, images of 256x256 px).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from statistics import median

import torch

from data.reading.transfer import Waiting, on_device
from tests.benchmarks.codec_training import Trainer, extracted, trainer
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, timed
from tests.benchmarks.scene_images import image_files

BATCH_SIZE = 8
NUM_IMAGES = 96
LEAST_STEPS = 12  # a round; an epoch of a coarse level is over too soon to be timed
ROUNDS = 5
PRECISIONS = ("float32", "bfloat16")


def run(folder: Path) -> list[Table]:
    """Measure all levels in both precisions."""
    images = image_files(folder / "images")
    images = dataclasses.replace(images, records=images.records[:NUM_IMAGES])
    cache = folder / "cache"
    extracted(images, cache)
    return [_measure(cache, precision) for precision in PRECISIONS]


def _measure(cache: Path, precision: str) -> Table:
    rows: list[list[Cell]] = []
    goals: list[Goal] = []
    for level in range(5):
        with trainer(cache, level, precision=precision, batch_size=BATCH_SIZE) as training:
            row, share = _level(training)
        ratio = row["streaming"] / row["resident"]
        positions = BATCH_SIZE * (64 >> level) ** 2
        rows.append([
            f"level {level}", row["streaming"] * 1e3, row["resident"] * 1e3, ratio, share,
            BATCH_SIZE / row["streaming"], row["streaming"] * 1e6 / positions,
        ])  # fmt: skip
        goals.append(Goal(what=f"level {level}: streaming / resident", ratio=ratio, at_most=1.03))
        goals.append(Goal(what=f"level {level}: share waited", ratio=share, at_most=0.02))
    return Table(
        title=f"training_step: {precision}, batches of 8",
        columns=[
            "", "ms streaming", "ms resident", "ratio", "waited", "samples/s", "us per position"
        ],
        rows=rows,
        goals=goals,
    )  # fmt: skip


def _level(training: Trainer) -> tuple[dict[str, float], float]:
    """Return the seconds of a step, either way, and the share of streaming spent waiting."""
    stream = training.session.stream
    epochs = -(-LEAST_STEPS // len(stream))
    num_steps = epochs * len(stream)
    batch, x = next(iter(on_device(stream, "cpu")))
    x = x.clone(memory_format=torch.channels_last)
    shares = []

    def streaming(number: int) -> None:
        waiting, start = Waiting(), time.perf_counter()
        for epoch in range(epochs):
            stream.set_epoch(number * epochs + epoch)
            for item in on_device(stream, "cpu", waiting):
                training(*item)
        if number:
            shares.append(waiting.seconds / (time.perf_counter() - start))

    def resident(number: int) -> None:
        for _ in range(num_steps):
            training(batch, x)

    turns = {"streaming": timed(streaming), "resident": timed(resident)}
    seconds = interleaved(turns, rounds=ROUNDS)
    return {name: median(v) / num_steps for name, v in seconds.items()}, median(shares)


if __name__ == "__main__":
    main("training_step", run)
