"""Extraction on a GPU, against a bare loop and against one file of the same bytes.

The bare loop decodes ahead in as many threads as extraction does and runs the backbone on the same
batches, but fetches and keeps nothing; the file is written by one thread and synced. Extraction is
to take hardly longer than the slower of the two. Beside its time: which share of it decoding, the
backbone, copying and writing were at work. Photographs of mixed sizes are those of the folder
GPU_CHECK_IMAGES.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.schema.data import CacheConfig, DataConfig, DetectorConfig
from data.cache.manifest import Manifest
from data.cache.manifest_parts import SampleInfo
from data.cache.plan import level_bytes, units_of
from data.images.image_sets import load_images, read_image
from data.images.records import ImageSet
from data.system.array_files import write_all
from data.system.threads import in_order
from extract.detector.loading import backbone_levels, load_detector, prepare_images
from extract.features.busy_times import STAGES
from extract.features.extraction import extract, plan_extraction
from extract.features.pipeline import (
    AHEAD,
    batch_sizes,
    planned_batches,
    usual_num_workers,
)
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.scene_images import BUILDERS, image_files, planned

ROUNDS = 5
REPEATED = 4
PHOTOGRAPHS_PX = (320, 533)  # shorter side, and the longer one at most
MOST_PHOTOGRAPHS = 400
_BLOCK_BYTES = 2**26
_ENVIRONMENT = "GPU_CHECK_IMAGES"


def run(folder: Path, device: str = "cuda") -> list[Table]:
    """Measure extraction of images of one size with each detector, then of photographs."""
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="gpu: extraction", note=note, columns=[""], rows=[])]
    images = repeated(image_files(folder / "images"))
    cache = folder / "cache"
    tables = [of_scenes(builder, images, cache, device) for builder in BUILDERS]
    return [*tables, *of_photographs(cache, device)]


def repeated(images: ImageSet) -> ImageSet:
    """Return the images several times, as a GPU is done with a hundred before it is warm."""
    records = tuple(
        dataclasses.replace(record, image_id=len(images.records) * turn + number)
        for turn in range(REPEATED)
        for number, record in enumerate(images.records)
    )
    return dataclasses.replace(images, records=records)


def of_scenes(builder: str, images: ImageSet, cache: Path, device: str) -> Table:
    """Measure images that all become 256x256 px."""
    detector, manifest = planned(builder, images, device=device)
    return _measured(f"{builder}, 256x256 px", detector.model, manifest, images, cache)


def of_photographs(cache: Path, device: str) -> list[Table]:
    """Measure the images of GPU_CHECK_IMAGES, nearly each of another size; nothing if unset."""
    folder = os.environ.get(_ENVIRONMENT)
    if not folder:
        return []
    data = DataConfig.model_validate(
        {"name": "photographs", "format": "folder", "splits": {"train": {"images": folder}}}
    )
    images = load_images(data, "train")
    images = dataclasses.replace(images, records=images.records[:MOST_PHOTOGRAPHS])
    least, most = PHOTOGRAPHS_PX
    config = DetectorConfig(builder=BUILDERS[-1], weights="random", min_size=least, max_size=most)
    detector = load_detector(config, device)
    manifest = plan_extraction("photographs", images, detector, config, CacheConfig())
    title = f"{BUILDERS[-1]}, photographs in {len(manifest.buckets)} sizes"
    return [_measured(title, detector.model, manifest, images, cache)]


def _measured(title: str, model: Any, manifest: Manifest, images: ImageSet, cache: Path) -> Table:
    device = next(model.parameters()).device
    num_bytes = sum(level_bytes(manifest, level.index) for level in manifest.levels)
    raw = cache.with_name("raw")
    block = np.random.default_rng(0).bytes(min(_BLOCK_BYTES, num_bytes))
    busy: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def bare_loop(number: int) -> None:
        _run_backbone(model, manifest)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def one_file(number: int) -> None:
        with raw.open("wb", buffering=0) as file:
            for at in range(0, num_bytes, len(block)):
                write_all(file.fileno(), memoryview(block)[: num_bytes - at], at)
            os.fsync(file.fileno())

    def extraction(number: int) -> None:
        done = extract(cache, manifest, images, model, show_progress=False)
        for stage in STAGES:
            busy[stage].append(done.busy.get(stage, 0.0))

    def clear(name: str, number: int) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        raw.unlink(missing_ok=True)
        os.sync()  # what others left to be written is not to be waited for in the turn

    contestants = {"bare loop": bare_loop, "one file": one_file, "extraction": extraction}
    turns = {name: timed(function) for name, function in contestants.items()}
    seconds = medians(interleaved(turns, rounds=ROUNDS, before=clear))
    raw.unlink(missing_ok=True)
    shares = medians(busy)
    num_images = len(manifest.samples)
    rows: list[list[Cell]] = [
        [name, value, num_images / value, None if name == "bare loop" else num_bytes / 1e9 / value,
         *(shares[stage] if name == "extraction" else None for stage in STAGES)]
        for name, value in seconds.items()
    ]  # fmt: skip
    limit = max(seconds["bare loop"], seconds["one file"])
    return Table(
        title=f"gpu: extraction, {title}, {num_images} images, {num_bytes / 1e9:.2f} GB",
        columns=["", "s", "images/s", "GB/s", *STAGES],
        rows=rows,
        goals=[
            Goal(
                what="extraction's time / the larger of bare loop's and one file's",
                ratio=seconds["extraction"] / limit,
                at_most=1.1,
            )
        ],
    )


def _run_backbone(model: Any, manifest: Manifest) -> None:
    """Decode all images and run the backbone on them, in extraction's batches."""
    units = units_of(manifest)
    sizes = batch_sizes(model, manifest, units)
    batches = [batch for _, batch in planned_batches(manifest, units, sizes)]
    is_pinned = next(model.parameters()).is_cuda

    def decoded(sample: SampleInfo) -> Tensor:
        image = torch.from_numpy(read_image(sample.file))
        return image.pin_memory() if is_pinned else image

    images = in_order(
        decoded, [sample for batch in batches for sample in batch],
        num_threads=usual_num_workers(), ahead=AHEAD * max(sizes.values()),
    )  # fmt: skip
    for batch in batches:
        prepared, _ = prepare_images(model, [next(images) for _ in batch])
        with torch.inference_mode():
            backbone_levels(model, prepared)


if __name__ == "__main__":
    main("gpu_extraction", run)
