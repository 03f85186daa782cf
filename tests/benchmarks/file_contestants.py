"""What people do without a loader: one file per image or sample, h5py, zarr-python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.cache.zarr_container import level_folder
from tests.benchmarks.contestant import BatchBuffer, Contestant, Samples, shuffled

_NUM_LEVELS = 5

# One image's file holds all levels, 2.8 MB here; more files than that would only fill the disk.
_MAX_IMAGE_FILES = 192


def torch_files(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """One `torch.save` per image, all levels inside, as CompressAI-Vision stores features.

    Loaded with mmap=True, so that the levels that are not wanted cost as little as they can.
    """
    del resources  # each file is opened anew
    folder.mkdir()
    num_images = min(samples.num, _MAX_IMAGE_FILES)
    height, width, channels = samples.shape
    finest = (height << samples.level, width << samples.level)
    for index in range(num_images):
        levels = {}
        for level in range(_NUM_LEVELS):
            shape = (max(1, finest[0] >> level), max(1, finest[1] >> level), channels)
            own = level == samples.level
            values = samples[index] if own else np.resize(samples[index], shape)
            levels[level] = torch.from_numpy(values).permute(2, 0, 1)
        torch.save(levels, folder / f"{index}.pt")
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        def loaded() -> Iterator[NDArray[Any]]:
            for index in shuffled(num_images, number).tolist():
                levels = torch.load(folder / f"{index}.pt", weights_only=True, mmap=True)
                yield levels[samples.level].permute(1, 2, 0).numpy()

        return buffer.batches(loaded())

    return Contestant(epoch=epoch, num_samples=num_images)


def npy_files(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """One .npy per sample; np.load with mmap_mode is slower on both sizes."""
    del resources  # each file is opened anew
    folder.mkdir()
    for index in range(samples.num):
        np.save(folder / f"{index}.npy", samples[index])
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        order = shuffled(samples.num, number).tolist()
        return buffer.batches(np.load(folder / f"{index}.npy") for index in order)

    return Contestant(epoch=epoch, num_samples=samples.num)


def hdf5_dataset(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """h5py's own indexing of one open file, ds[i]; lists of indices are no faster, or far slower.

    Contiguous: on large samples faster than one chunk per sample.
    """
    folder.mkdir()
    path = folder / "samples.h5"
    with h5py.File(path, "w", libver="latest") as file:
        dataset = file.create_dataset("features", (samples.num, *samples.shape), "<f2")
        for index in range(samples.num):
            dataset[index] = samples[index]
    opened = resources.enter_context(h5py.File(path, "r"))["features"]
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        order = shuffled(samples.num, number).tolist()
        return buffer.batches(opened[index] for index in order)

    return Contestant(epoch=epoch, num_samples=samples.num)


def zarr_array(samples: Samples, cache: Path, resources: ExitStack) -> Contestant:
    """zarr-python's own indexing of our store that is there, array[i]; oindex[batch] is slower."""
    import zarr

    del resources  # it opens a shard anew for each sample

    _, array = next(zarr.open_group(level_folder(cache, samples.level), mode="r").arrays())
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        order = shuffled(samples.num, number).tolist()
        return buffer.batches(np.asarray(array[index]) for index in order)

    return Contestant(epoch=epoch, num_samples=samples.num)
