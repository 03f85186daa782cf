"""Images in the order of the plan, decoded and put through the backbone ahead of their writing.

On a CPU each image is computed on one core, several images at once. That is faster than several
cores on one image, which wait for each other after every layer; and the features do not depend on
the number of cores, since no sum is ever split among them. On a GPU images are decoded ahead by
threads, prepared and computed in batches, and a batch's maps are waited for when the GPU has the
next one to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from configs.cores import usable_cores
from data.cache.manifest import Manifest
from data.cache.manifest_parts import SampleInfo
from data.cache.plan import Unit, samples_by_bucket
from data.images.image_sets import read_planned_image
from data.system.threads import in_order
from extract.features.maps import Maps, start_maps

# What a detector's usual batch of large images has: smaller ones would leave a GPU to wait for
# Python, which asks for each layer.
_GPU_BATCH_PIXELS = 4 * 2**20
_DECODED_PIXELS = 16 * 2**20  # of a batch's images before they are resized
_MOST_GPU_BATCH_SIZE = 64
_MOST_CORES = 16
_MOST_WORKERS = 8  # more of them wait for each other: 350 images a second with 8, 200 with 16
# So many times the batch size are decoded (GPU) or computed (CPU) before they are asked for.
AHEAD = 2


def usual_batch_size(model: Any, manifest: Manifest, bucket: int) -> int:
    """Return how many images of a bucket are computed at once unless the user says otherwise."""
    if next(model.parameters()).device.type == "cpu":
        return min(_MOST_CORES, torch.get_num_threads())
    size = manifest.buckets[bucket]
    number = round(_GPU_BATCH_PIXELS / (size.height_px * size.width_px))
    decoded = _DECODED_PIXELS // _largest_image(manifest, bucket)
    return max(1, min(_MOST_GPU_BATCH_SIZE, number, decoded))


def _largest_image(manifest: Manifest, bucket: int) -> int:
    """Return the pixels of a bucket's largest image, before it is resized."""
    return max(x.height * x.width for x in manifest.samples if x.bucket == bucket)


def usual_num_workers() -> int:
    """Return how many threads decode for a GPU unless the user says otherwise."""
    return max(2, min(_MOST_WORKERS, usable_cores() // 2))


def computed_maps(
    model: Any, manifest: Manifest, units: Sequence[Unit], *, batch_size: int | None,
    num_workers: int,
) -> Iterator[tuple[Unit, Maps]]:  # fmt: skip
    """Yield (unit, maps of its next rows), {level: [H, W, C] float32 on the CPU each}.

    On a CPU `batch_size` images are computed at once; on a GPU they are one batch, and
    `num_workers` threads decode. None: `usual_batch_size`. Raises ConfigError for an image that
    cannot be read.
    """
    if next(model.parameters()).device.type == "cpu":
        yield from _on_cpu(
            model, manifest, units, batch_size or usual_batch_size(model, manifest, 0)
        )
    else:
        yield from _on_gpu(model, manifest, units, batch_size, num_workers)


def _on_cpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], num_cores: int
) -> Iterator[tuple[Unit, Maps]]:
    def compute(task: tuple[Unit, int]) -> tuple[Unit, Maps]:
        unit, index = task
        sample = manifest.samples[index]
        return unit, start_maps(model, manifest, [sample], [_decoded(sample)])()

    tasks = [(unit, index) for unit, rows in _rows(manifest, units) for index in rows]
    yield from in_order(compute, tasks, num_threads=num_cores, ahead=AHEAD * num_cores)


def _on_gpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], batch_size: int | None, num_workers: int
) -> Iterator[tuple[Unit, Maps]]:
    buckets = {unit.bucket for unit in units}
    sizes = {b: batch_size or usual_batch_size(model, manifest, b) for b in buckets}
    groups = [
        (unit, rows[at : at + sizes[unit.bucket]])
        for unit, rows in _rows(manifest, units)
        for at in range(0, len(rows), sizes[unit.bucket])
    ]
    samples = [manifest.samples[index] for _, group in groups for index in group]
    # As many as any bucket's images leave memory for.
    ahead = min((AHEAD * size for size in sizes.values()), default=1)
    images = in_order(
        partial(_decoded, pinned=next(model.parameters()).is_cuda),
        samples, num_threads=num_workers, ahead=max(ahead, num_workers),
    )  # fmt: skip
    before: tuple[Unit, Callable[[], Maps]] | None = None
    for unit, group in groups:
        batch = [manifest.samples[index] for index in group]
        started = start_maps(model, manifest, batch, [next(images) for _ in group])
        if before is not None:
            yield before[0], before[1]()
        before = unit, started
    if before is not None:
        yield before[0], before[1]()


def _rows(manifest: Manifest, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the indices of its samples."""
    by_bucket = samples_by_bucket(manifest)
    for unit in units:
        rows = by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
        yield unit, rows


def _decoded(sample: SampleInfo, *, pinned: bool = False) -> Tensor:
    image = torch.from_numpy(read_planned_image(sample.file, (sample.height, sample.width)))
    return image.pin_memory() if pinned else image
