"""Caches of one level whose maps a test chooses, written by the real writer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configs.schema.data import Container, StoredType
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo
from data.cache.plan import plan_samples, samples_by_bucket
from data.images.records import ImageRecord, ImageSet
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter

SYNTHETIC_DETECTOR = {
    "builder": "synthetic", "checkpoint": None, "weights": None, "weights_sha256": "",
    "weights_file_sha256": None, "configured": {"min_size": None, "max_size": None},
    "min_size": 800, "max_size": 1333, "resize": None, "size_divisible": 1,
}  # fmt: skip


def write_maps(
    folder: Path,
    maps: Sequence[NDArray[Any]],
    *,
    level: int = 0,
    stride: int = 1,
    dtype: StoredType = "float16",
    first_id: int = 1,
    container: Container = "zarr",
) -> Path:
    """Write one map [H, W, C] for each image as a level's cache, eight samples a shard at most.

    Images of one size at a `stride` of 1 are of one bucket. Return the folder.
    """
    records = tuple(
        ImageRecord(
            image_id=first_id + number, file=f"{number}.png", height=len(values) * stride,
            width=values.shape[1] * stride, boxes_xyxy=np.zeros((0, 4), np.float32),
            category_ids=np.zeros(0, np.int64), ignored=np.zeros(0, bool),
        )
        for number, values in enumerate(maps)
    )  # fmt: skip
    sizes = [(record.height, record.width) for record in records]
    info = LevelInfo(
        index=level, key=str(level), stride_px=stride, num_channels=maps[0].shape[2],
        derived_from=None,
    )  # fmt: skip
    buckets, samples = plan_samples(
        records, sizes, levels=(info,), divisible=1, bytes_per_value=np.dtype(dtype).itemsize,
        shapes_of=lambda height, width: {level: (height // stride, width // stride)},
        max_shard_bytes=8 * max(values.size for values in maps) * np.dtype(dtype).itemsize,
    )  # fmt: skip
    manifest = Manifest(
        format_version=1, dataset="small", split="train", container=container, dtype=dtype,
        detector=SYNTHETIC_DETECTOR, levels=(info,), buckets=buckets, samples=samples,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    members = samples_by_bucket(manifest)
    with CommitLog(folder) as log:
        settle_cache(
            folder, manifest, ImageSet(split="train", records=records, categories={}), log,
            overwrite=False,
        )  # fmt: skip
        with closing(CacheWriter(folder, manifest, log)) as writer:
            pending = writer.pending
            writer.prepare()
            for unit in pending:
                rows = members[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
                its = [torch.from_numpy(maps[row].astype(np.float32)) for row in rows]
                writer.write(unit, {level: its})
            writer.finish()
    return folder


def random_maps(
    shapes: Sequence[tuple[int, int]], num_channels: int, seed: int
) -> list[NDArray[Any]]:
    """Return float16 maps [H, W, C] of these sizes, no two values alike within reason."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*shape, num_channels)).astype(np.float16) for shape in shapes]
