"""Loaders of other projects, each as fast as its documented settings make it in one process."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.contestant import BatchBuffer, Contestant, Samples, groups, shuffled

_SHARD_BYTES = 64 * 2**20


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def webdataset_shards(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """Tar shards of raw bytes, and a shuffle buffer that holds the whole split."""
    import webdataset

    del resources  # closes its files itself
    folder.mkdir()
    per_shard = max(1, _SHARD_BYTES // samples.sample_bytes)
    pattern = str(folder / "%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as writer:
        for index in range(samples.num):
            writer.write({"__key__": f"{index:08d}", "bin": samples[index].tobytes()})
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        dataset = webdataset.WebDataset(
            shards, shardshuffle=len(shards), seed=number, empty_check=False
        ).shuffle(samples.num, initial=samples.num, rng=random.Random(number))
        return buffer.batches(np.frombuffer(item["bin"], np.float16) for item in dataset)

    return Contestant(epoch=epoch, num_samples=samples.num)


def litdata_chunks(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """Chunks of 64 MiB read in place, shuffle=True: chunks, then items inside windows of 256.

    That is less of a shuffle than the others do; a full one is slower. The same number for
    `batch_decode` is five times as fast on small samples as its default.
    """
    # Else it asks the registry for a newer version, again and again.
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    import litdata
    from litdata.streaming.cache import Cache

    del resources  # it has nothing to close
    folder.mkdir()
    writer = Cache(str(folder), chunk_bytes=_SHARD_BYTES)
    for index in range(samples.num):
        writer[index] = torch.from_numpy(samples[index].reshape(-1))
    writer.done()
    writer.merge()
    dataset = litdata.StreamingDataset(str(folder), shuffle=True, batch_decode=256)
    buffer = BatchBuffer(samples.shape)

    def epoch(number: int) -> Iterator[Tensor]:
        del number  # it counts epochs itself, and orders each anew
        return buffer.batches(item.numpy() for item in dataset)

    return Contestant(epoch=epoch, num_samples=samples.num)


def datasets_torch(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """Hugging Face datasets, the documented way: torch format, a batch's indices at once."""
    stored = _arrow_dataset(samples, folder, resources)
    dataset = stored.with_format("torch", dtype=torch.float16)  # else it casts to float32

    def epoch(number: int) -> Iterator[Tensor]:
        for group in groups(shuffled(samples.num, number)):
            features = dataset[group.tolist()]["features"]
            yield features.view(len(group), *samples.shape).permute(0, 3, 1, 2)

    return Contestant(epoch=epoch, num_samples=samples.num)


def datasets_arrow(samples: Samples, folder: Path, resources: ExitStack) -> Contestant:
    """Hugging Face datasets, its fastest way: Arrow's own buffers, as arrays without a copy.

    Large samples are faster one by one, as views of the mapped file; small ones a batch at once.
    """
    dataset = _arrow_dataset(samples, folder, resources).with_format("arrow")
    buffer = BatchBuffer(samples.shape)

    def views(order: list[int]) -> Iterator[NDArray[Any]]:
        for index in order:
            yield dataset[index]["features"].chunk(0).flatten().to_numpy()

    def taken(order: NDArray[Any]) -> Iterator[NDArray[Any]]:
        for group in groups(order):
            values = dataset[group]["features"].combine_chunks().flatten().to_numpy()
            yield from values.reshape(len(group), -1)

    def epoch(number: int) -> Iterator[Tensor]:
        order = shuffled(samples.num, number)
        large = samples.sample_bytes >= 2**20
        return buffer.batches(views(order.tolist()) if large else taken(order))

    return Contestant(epoch=epoch, num_samples=samples.num)


def _arrow_dataset(samples: Samples, folder: Path, resources: ExitStack) -> Any:
    """Write the samples as an Arrow file of fixed-size lists, and map it."""
    import datasets
    import pyarrow

    del resources  # unmapped with the dataset
    folder.mkdir()
    path = folder / "samples.arrow"
    length = samples.sample_bytes // 2
    schema = pyarrow.schema([("features", pyarrow.list_(pyarrow.float16(), length))])
    per_batch = max(1, _SHARD_BYTES // samples.sample_bytes)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for start in range(0, samples.num, per_batch):
            rows = range(start, min(start + per_batch, samples.num))
            values = pyarrow.array(np.concatenate([samples[row].reshape(-1) for row in rows]))
            column = pyarrow.FixedSizeListArray.from_arrays(values, length)
            writer.write_batch(pyarrow.record_batch([column], schema=schema))
    return datasets.Dataset.from_file(str(path))
