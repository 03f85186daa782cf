"""On a GPU: waiting for data, samples a second, share of the peak; extraction and a bare loop.

`make bench-gpu`. Batches of 32, default codec, bfloat16. The peak is measured: the rate of a large
bfloat16 matrix product on the same device. The bare loop decodes ahead in as many threads as
extraction does and runs the backbone on the same batches, but fetches and keeps nothing.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data.cache.manifest_parts import SampleInfo
from data.images.image_sets import read_image
from data.images.records import ImageSet
from data.reading.transfer import Waiting, on_device
from data.system.threads import in_order
from extract.detector.loading import backbone_levels, prepare_images
from extract.features.extraction import extract
from extract.features.pipeline import AHEAD, usual_batch_size, usual_num_workers
from tests.benchmarks.codec_training import Trainer, extracted, trainer
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.scene_images import BUILDERS, image_files, planned

BATCH_SIZE = 32
ROUNDS = 5
LEAST_STEPS = 30
REPEATED = 4
_SIDE = 8192


def run(folder: Path, device: str = "cuda", batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure extraction, then every level."""
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="gpu", note=note, columns=[""], rows=[])]
    cache = folder / "cache"
    images = image_files(folder / "images")
    more = _repeated(images)
    extraction = [_extraction(builder, more, cache, device) for builder in BUILDERS]
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


def _repeated(images: ImageSet) -> ImageSet:
    """Return the images several times, as a GPU is done with a hundred before it is warm."""
    records = [
        dataclasses.replace(record, image_id=len(images.records) * turn + number)
        for turn in range(REPEATED)
        for number, record in enumerate(images.records)
    ]
    return dataclasses.replace(images, records=records)


def _extraction(builder: str, images: ImageSet, cache: Path, device: str) -> Table:
    detector, manifest = planned(builder, images, device=device)
    model = detector.model

    size = usual_batch_size(model, manifest, 0)

    def decoded(sample: SampleInfo) -> Tensor:
        image = torch.from_numpy(read_image(sample.file))
        return image.pin_memory() if device == "cuda" else image

    def bare_loop(number: int) -> None:
        samples = manifest.samples
        images = in_order(decoded, samples, num_threads=usual_num_workers(), ahead=AHEAD * size)
        for at in range(0, len(samples), size):
            batch, _ = prepare_images(model, [next(images) for _ in samples[at : at + size]])
            with torch.inference_mode():
                backbone_levels(model, batch)
        _wait_for(device)

    def extraction(number: int) -> None:
        extract(cache, manifest, images, model, show_progress=False)

    seconds = medians(
        interleaved(
            {"bare loop": timed(bare_loop), "extraction": timed(extraction)},
            rounds=ROUNDS,
            before=lambda name, number: shutil.rmtree(cache, ignore_errors=True),
        )
    )
    num_images = len(manifest.samples)
    return Table(
        title=f"gpu: extraction, {builder}, {num_images} images at 256x256 px",
        columns=["", "s", "images/s"],
        rows=[[name, value, num_images / value] for name, value in seconds.items()],
        goals=[
            Goal(
                what="extraction's time / bare loop's",
                ratio=seconds["extraction"] / seconds["bare loop"],
                at_most=1.05,
            )
        ],
    )


def _level(training: Trainer, device: str) -> tuple[float, float, float]:
    """Return samples per second, the share waited, and FLOP per second of the convolutions."""
    stream = training.session.stream
    batch, x = next(iter(on_device(stream, device)))
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
            for item in on_device(stream, device, waiting):
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
    """Return what a large product of matrices reaches on the device, in bfloat16."""
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
