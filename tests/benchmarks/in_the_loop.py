"""One epoch of five levels from the cache, against training with the detector in the loop.

Both make the same steps on the same images. In the loop each batch is decoded and goes through the
backbone, for each level anew, as scripts without a cache do. The extraction is charged to the cache
by the hundredth: the default is to train for 100 epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from data.cache.manifest import Manifest
from data.images.image_sets import read_image
from data.reading.level_stream import Batch
from data.reading.order import epoch_order
from data.reading.transfer import on_device
from extract.detector.loading import LoadedDetector, backbone_levels, prepare_images
from tests.benchmarks.codec_training import RESNET, Trainer, extracted, trainer
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, timed
from tests.benchmarks.scene_images import image_files

BATCH_SIZE = 8
NUM_IMAGES = 32
NUM_EPOCHS = 100
ROUNDS = 5
LEVELS = range(5)


def run(folder: Path) -> list[Table]:
    """Measure both precisions of the codecs; the detector computes in float32."""
    images = image_files(folder / "images")
    images = dataclasses.replace(images, records=images.records[:NUM_IMAGES])
    cache = folder / "cache"
    detector, manifest, images_per_s = extracted(images, cache)
    seconds = NUM_IMAGES / images_per_s
    return [
        _measure(cache, detector, manifest, seconds, precision)
        for precision in ("float32", "bfloat16")
    ]


def _measure(
    cache: Path, detector: LoadedDetector, manifest: Manifest, extraction_s: float, precision: str
) -> Table:
    with ExitStack() as stack:
        turns = {}
        for level in LEVELS:
            training = stack.enter_context(
                trainer(cache, level, precision=precision, batch_size=BATCH_SIZE)
            )
            turns[f"{level} cache"] = timed(_from_cache(training))
            turns[f"{level} loop"] = timed(_in_the_loop(training, detector, manifest, level))
        seconds = {name: median(v) for name, v in interleaved(turns, rounds=ROUNDS).items()}
    charged = extraction_s / NUM_EPOCHS
    loop = [seconds[f"{level} loop"] for level in LEVELS]
    cached = [seconds[f"{level} cache"] for level in LEVELS]
    rows: list[list[Cell]] = [
        [f"level {level}", loop[level], cached[level], loop[level] / cached[level]]
        for level in LEVELS
    ]
    total = sum(loop) / (sum(cached) + charged)
    last = loop[4] / (cached[4] + charged / len(LEVELS))
    rows.append(["extraction / 100", None, charged, None])
    rows.append(["all", sum(loop), sum(cached) + charged, total])
    return Table(
        title=f"in_the_loop: {RESNET}, {NUM_IMAGES} images of 256x256 px, one epoch, {precision}",
        columns=["s an epoch", "in the loop", "cache", "ratio"],
        rows=rows,
        goals=[
            Goal(what="five levels: in the loop / cache", ratio=total, at_least=6.0),
            Goal(what="level 4: in the loop / cache", ratio=last, at_least=20.0),
        ],
    )


def _from_cache(training: Trainer) -> Callable[[int], None]:
    def epoch(number: int) -> None:
        training.session.stream.set_epoch(number)
        for batch, x in on_device(training.session.stream, "cpu"):
            training(batch, x)

    return epoch


def _in_the_loop(
    training: Trainer, detector: LoadedDetector, manifest: Manifest, level: int
) -> Callable[[int], None]:
    """Return the plain trainer: decode, backbone, step."""
    files = [sample.file for sample in manifest.samples]

    def batches(number: int) -> Iterator[tuple[list[int], Tensor]]:
        order = epoch_order(num_samples=len(files), seed=0, epoch=number).tolist()
        for start in range(0, len(order), BATCH_SIZE):
            indices = order[start : start + BATCH_SIZE]
            images, _ = prepare_images(detector.model, [read_image(files[i]) for i in indices])
            with torch.inference_mode():
                features = list(backbone_levels(detector.model, images).values())[level]
            # Inference tensors cannot be saved for backward.
            yield indices, features.clone(memory_format=torch.channels_last)

    def epoch(number: int) -> None:
        for indices, x in batches(number):
            height, width = x.shape[-2:]
            batch = Batch(
                features=x, indices=torch.tensor(indices),
                sizes=torch.tensor([[height, width]] * len(indices)),
                corners=torch.zeros(len(indices), 2, dtype=torch.int64), level=level, first_row=0,
                batch_rows=len(indices), batch_positions=len(indices) * height * width,
            )  # fmt: skip
            training(batch, x)

    return epoch


if __name__ == "__main__":
    main("in_the_loop", run)
