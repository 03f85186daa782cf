"""Images in the order of the plan, decoded and put through the backbone ahead of their writing.

On a CPU each image is computed on one core, several images at once. That is faster than several
cores on one image, which wait for each other after every layer; and the features do not depend on
the number of cores, since no sum is ever split among them. On a GPU images are decoded ahead by
threads and computed in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from data.images import read_planned_image
from data.manifest import Manifest, SampleInfo
from data.plan import Unit, samples_by_bucket
from data.threads import in_order
from extract.maps import compute_maps

Maps = dict[int, list[Tensor]]
Task = TypeVar("Task")
Result = TypeVar("Result")

GPU_BATCH_SIZE = 4
_MOST_CORES = 16
# So many times the batch size are decoded (GPU) or computed (CPU) before they are asked for.
AHEAD = 2


def usual_batch_size(model: Any) -> int:
    """Return how many images are computed at once unless the user says otherwise."""
    if next(model.parameters()).device.type == "cpu":
        return min(_MOST_CORES, torch.get_num_threads())
    return GPU_BATCH_SIZE


def computed_maps(
    model: Any, manifest: Manifest, units: Sequence[Unit], *, batch_size: int, num_workers: int
) -> Iterator[tuple[Unit, Maps]]:
    """Yield (unit, maps of its next rows), {level: [H, W, C] float32 on the CPU each}.

    On a CPU `batch_size` images are computed at once; on a GPU they are one batch, and
    `num_workers` threads decode. Raises ConfigError for an image that cannot be read.
    """
    if next(model.parameters()).device.type == "cpu":
        yield from _on_cpu(model, manifest, units, batch_size)
    else:
        yield from _on_gpu(model, manifest, units, batch_size, num_workers)


def _on_cpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], num_cores: int
) -> Iterator[tuple[Unit, Maps]]:
    def compute(task: tuple[Unit, int]) -> tuple[Unit, Maps]:
        unit, index = task
        sample = manifest.samples[index]
        return unit, compute_maps(model, manifest, [sample], [_decode(sample)])

    tasks = [(unit, index) for unit, rows in _rows(manifest, units) for index in rows]
    yield from in_order(compute, tasks, num_threads=num_cores, ahead=AHEAD * num_cores)


def _on_gpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], batch_size: int, num_workers: int
) -> Iterator[tuple[Unit, Maps]]:
    groups = [
        (unit, rows[at : at + batch_size])
        for unit, rows in _rows(manifest, units)
        for at in range(0, len(rows), batch_size)
    ]
    samples = [manifest.samples[index] for _, group in groups for index in group]
    images = in_order(_decode, samples, num_threads=num_workers, ahead=AHEAD * batch_size)
    for unit, group in groups:
        batch = [manifest.samples[index] for index in group]
        yield unit, compute_maps(model, manifest, batch, [next(images) for _ in group])


def _rows(manifest: Manifest, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the indices of its samples."""
    by_bucket = samples_by_bucket(manifest)
    for unit in units:
        rows = by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
        yield unit, rows


def _decode(sample: SampleInfo) -> NDArray[Any]:
    return read_planned_image(sample.file, (sample.height, sample.width))
