"""On a GPU: waiting for data, samples a second, share of the peak; extraction and a bare loop.

`make bench-gpu`. Batches of 32, default codec, bfloat16. The peak is measured: the rate of a large
bfloat16 matrix product on the same device. Extraction is `tests.benchmarks.gpu_extraction`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from data.reading.transfer import Waiting, on_device
from tests.benchmarks.codec_training import Trainer, extracted, trainer
from tests.benchmarks.gpu_extraction import of_photographs, of_scenes, repeated
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.scene_images import BUILDERS, image_files

BATCH_SIZE = 32
ROUNDS = 5
LEAST_STEPS = 30
_SIDE = 8192
SMALL = {
    "BATCH_SIZE": 2, "ROUNDS": 1, "LEAST_STEPS": 1,
    "gpu_extraction.ROUNDS": 1, "gpu_extraction.REPEATED": 1,
    "BUILDERS": ("fasterrcnn_mobilenet_v2_fpn",),
    "scene_images.NUM_IMAGES": 2, "scene_images.INPUT_PX": (64, 64),
    "codec_training.RESNET": "fasterrcnn_mobilenet_v2_fpn",
    "codec_training.CODEC": {"n_hidden": 8, "n_channels": 12},
}  # fmt: skip


def run(folder: Path, device: str = "cuda", batch_size: int | None = None) -> list[Table]:
    """Measure extraction, then every level, in batches of 32 unless told otherwise."""
    batch_size = batch_size or BATCH_SIZE
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="gpu", note=note, columns=[""], rows=[])]
    cache = folder / "cache"
    images = image_files(folder / "images")
    more = repeated(images)
    extraction = [of_scenes(builder, more, cache, device) for builder in BUILDERS]
    extraction += of_photographs(cache, device)
    shutil.rmtree(cache, ignore_errors=True)
    extracted(more, cache, device=device)
    peak = peak_flops(device)
    rows: list[list[Cell]] = []
    waits = []
    for level in range(5):
        with trainer(
            cache, level, precision="bfloat16", batch_size=batch_size, device=device
        ) as training:
            samples_per_s, wait, flops = _level(training, device)
        waits.append(wait)
        rows.append([f"level {level}", samples_per_s, wait, flops / 1e12, flops / peak])
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return [
        Table(
            title=f"gpu: training, {name}, batches of {batch_size}, peak {peak / 1e12:.1f} TFLOP/s",
            columns=["", "samples/s", "waited", "TFLOP/s", "of peak"],
            rows=rows,
            goals=[Goal(what="level 0: share waited", ratio=waits[0], at_most=0.03)],
        ),
        *extraction,
    ]


def _level(training: Trainer, device: str) -> tuple[float, float, float]:
    """Return samples per second, the share waited, and FLOP per second of the convolutions."""
    stream = training.session.stream
    batch, x = next(iter(on_device(stream, device, as_stored=True)))
    with FlopCounterMode(display=False) as counter:
        training(batch, x)
    flops_per_sample = counter.get_total_flops() / len(x)
    rates, waits = [], []
    for number in range(ROUNDS + 1):
        waiting, num_samples, num_steps = Waiting(), 0, 0
        _wait_for(device)
        start = time.perf_counter()
        while num_steps < LEAST_STEPS:
            stream.set_epoch(number)
            for item in on_device(stream, device, waiting, as_stored=True):
                training(*item)
                num_steps += 1
                num_samples += len(item[1])
        _wait_for(device)
        seconds = time.perf_counter() - start
        if number:
            rates.append(num_samples / seconds)
            waits.append(waiting.seconds / seconds)
    return median(rates), median(waits), median(rates) * flops_per_sample


def peak_flops(device: str) -> float:
    """Return FLOP per second of a large bfloat16 matrix product."""
    side = _SIDE if device == "cuda" else 512
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    taken = []
    for _ in range(ROUNDS + 1):
        _wait_for(device)
        start = time.perf_counter()
        one @ one
        _wait_for(device)
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / median(taken[1:])


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main("gpu", run)
