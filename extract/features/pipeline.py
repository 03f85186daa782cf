"""Images in the order of the plan, decoded and put through the backbone ahead of their writing.

On a CPU each image is computed on one core, several images at once. That is faster than several
cores on one image, which wait for each other after every layer; and the features do not depend on
the number of cores, since no sum is ever split among them. On a GPU images are decoded ahead by
threads, prepared and computed in batches, and a batch's maps are waited for when the GPU has the
next one to compute.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from configs.cores import usable_cores
from data.cache.manifest import Manifest
from data.cache.manifest_parts import SampleInfo
from data.cache.plan import Unit, samples_by_bucket
from data.images.image_sets import read_planned_image
from data.system.threads import in_order, limit_cores
from extract.features.busy_times import BusyTimes
from extract.features.maps import Maps, start_maps

# What a detector's usual batch of large images has: smaller ones would leave a GPU to wait for
# Python, which asks for each layer.
_GPU_BATCH_PIXELS = 4 * 2**20
_DECODED_PIXELS = 16 * 2**20  # of a batch's images before they are resized
_MOST_GPU_BATCH_SIZE = 64
_MOST_CORES = 16
# A tenth of decoding holds the interpreter's lock: more threads would wait for each other.
_MOST_WORKERS = 16
_OTHER_CORES = 2  # for the thread that asks the GPU, and for those that write
# So many times the batch size are decoded (GPU) or computed (CPU) before they are asked for.
AHEAD = 2
_LEAST_BYTES = 2**16  # of a buffer that is used again
_WRITING_AHEAD = 1

Written = TypeVar("Written")


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
    return max(2, min(_MOST_WORKERS, usable_cores() - _OTHER_CORES))


def computed_maps(
    model: Any, manifest: Manifest, units: Sequence[Unit], *, batch_size: int | None,
    num_workers: int, busy: BusyTimes,
) -> Iterator[tuple[Unit, Maps]]:  # fmt: skip
    """Yield (unit, maps of its next rows), {level: [H, W, C] on the CPU each}.

    On a CPU `batch_size` images are computed at once, as float32; on a GPU they are one batch, cast
    there, and `num_workers` threads decode. None: `usual_batch_size`. Raises ConfigError for an
    image that cannot be read.
    """
    if next(model.parameters()).device.type == "cpu":
        yield from _on_cpu(
            model, manifest, units, batch_size or usual_batch_size(model, manifest, 0), busy
        )
    else:
        yield from _on_gpu(model, manifest, units, batch_size, num_workers, busy)


def written(
    batches: Iterator[tuple[Unit, Maps]], write: Callable[[Unit, Maps], Written]
) -> Generator[tuple[int, Written], None, None]:
    """Write each batch while the next is computed; yield (images, what `write` returned)."""
    writing: deque[tuple[int, Future[Written]]] = deque()
    with ThreadPoolExecutor(1, initializer=limit_cores, initargs=(1,)) as background:
        for unit, maps in batches:
            num_images = len(next(iter(maps.values())))
            writing.append((num_images, background.submit(write, unit, maps)))
            if len(writing) > _WRITING_AHEAD:
                num_images, future = writing.popleft()
                yield num_images, future.result()
        for num_images, future in writing:
            yield num_images, future.result()


def batch_sizes(
    model: Any, manifest: Manifest, units: Sequence[Unit], batch_size: int | None = None
) -> dict[int, int]:
    """Return {bucket: how many of its images a GPU gets at once} of the units' buckets."""
    buckets = {unit.bucket for unit in units}
    return {b: batch_size or usual_batch_size(model, manifest, b) for b in buckets}


def planned_batches(
    manifest: Manifest, units: Sequence[Unit], sizes: Mapping[int, int]
) -> list[tuple[Unit, list[SampleInfo]]]:
    """Return the units' images as a GPU gets them, each batch of one unit and so of one size."""
    return [
        (unit, [manifest.samples[index] for index in rows[at : at + sizes[unit.bucket]]])
        for unit, rows in _rows(manifest, units)
        for at in range(0, len(rows), sizes[unit.bucket])
    ]


def _on_cpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], num_cores: int, busy: BusyTimes
) -> Iterator[tuple[Unit, Maps]]:
    busy.num_threads = {"decode": num_cores, "backbone": num_cores}

    def compute(task: tuple[Unit, int]) -> tuple[Unit, Maps]:
        unit, index = task
        sample = manifest.samples[index]
        with busy.measured("decode"):
            image = torch.from_numpy(read_planned_image(sample.file, (sample.height, sample.width)))
        return unit, start_maps(model, manifest, [sample], [image], busy=busy)()

    tasks = [(unit, index) for unit, rows in _rows(manifest, units) for index in rows]
    yield from in_order(compute, tasks, num_threads=num_cores, ahead=AHEAD * num_cores)


def _on_gpu(
    model: Any, manifest: Manifest, units: Sequence[Unit], batch_size: int | None,
    num_workers: int, busy: BusyTimes,
) -> Iterator[tuple[Unit, Maps]]:  # fmt: skip
    busy.num_threads = {"decode": num_workers}
    sizes = batch_sizes(model, manifest, units, batch_size)
    groups = planned_batches(manifest, units, sizes)
    buffers = ReusedBuffers(pinned=next(model.parameters()).is_cuda)

    def decode(sample: SampleInfo) -> Tensor:
        with busy.measured("decode"):
            return _decoded(sample, buffers)

    # As many as any bucket's images leave memory for.
    ahead = AHEAD * min(sizes.values(), default=1)
    rest = in_order(
        decode, [sample for _, group in groups for sample in group],
        num_threads=num_workers, ahead=max(ahead, num_workers),
    )  # fmt: skip
    images = chain(_first_images(model, manifest, groups[0][1], rest), rest) if groups else rest
    before: tuple[Unit, list[Tensor], Callable[[], Maps]] | None = None
    for unit, group in groups:
        batch = [next(images) for _ in group]
        started = start_maps(model, manifest, group, batch, cast=True, busy=busy)
        if before is not None:
            yield _finished(*before, buffers)
        before = unit, batch, started
    if before is not None:
        yield _finished(*before, buffers)


def _first_images(
    model: Any, manifest: Manifest, samples: Sequence[SampleInfo], images: Iterator[Tensor]
) -> list[Tensor]:
    """Decode the first batch, and let the GPU do all that it will be asked for once meanwhile.

    The first time it loads libraries and kernels, and pins memory, which takes seconds.
    """
    blank = [torch.zeros((x.height, x.width, 3), dtype=torch.uint8) for x in samples]
    with ThreadPoolExecutor(1, initializer=limit_cores, initargs=(1,)) as beside:
        warmed = beside.submit(lambda: start_maps(model, manifest, samples, blank, cast=True)())
        first = [next(images) for _ in samples]
        warmed.result()
    return first


def _finished(
    unit: Unit, images: Sequence[Tensor], finish: Callable[[], Maps], buffers: ReusedBuffers
) -> tuple[Unit, Maps]:
    maps = finish()
    buffers.give_back(images)
    return unit, maps


def _rows(manifest: Manifest, units: Sequence[Unit]) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the indices of its samples."""
    by_bucket = samples_by_bucket(manifest)
    for unit in units:
        rows = by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
        yield unit, rows


def _decoded(sample: SampleInfo, buffers: ReusedBuffers) -> Tensor:
    """Return the image of a sample, uint8 [H, W, 3], in one of the buffers."""
    size_hw = sample.height, sample.width
    image = buffers.take((*size_hw, 3))
    read_planned_image(sample.file, size_hw, out=image.numpy())
    return image


class ReusedBuffers:
    """Buffers uint8 [n], taken by many threads and given back when nobody reads them any more.

    Fresh memory is handed out page by page, under a lock that all threads share, and pinning it
    stops a GPU: so images of nearly each another size get buffers of a few sizes, powers of two.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[int, list[Tensor]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int]) -> Tensor:
        """Return memory uint8 of this shape, of whatever values."""
        num_bytes = math.prod(shape)
        size = _size_of(num_bytes)
        with self._lock:
            buffer = self._free[size].pop() if self._free[size] else None
        if buffer is None:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return buffer[:num_bytes].view(*shape)

    def give_back(self, taken: Iterable[Tensor]) -> None:
        """Let others have what was taken; what a GPU was asked to read of it, it has read."""
        with self._lock:
            for tensor in taken:
                size = _size_of(tensor.numel())
                self._free[size].append(tensor.as_strided((size,), (1,), 0))


def _size_of(num_bytes: int) -> int:
    return max(_LEAST_BYTES, 1 << (num_bytes - 1).bit_length())
