"""The kinds of files that are altered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzzing import of_caches, of_images, of_labels, of_models, of_streams
from tests.fuzzing.subject import Subject

KINDS: dict[str, Callable[[Path], Subject]] = {
    "manifest": of_caches.manifest,
    "Zarr shard": of_caches.zarr_shard,
    "HDF5 shard": of_caches.hdf5_shard,
    "commit log": of_caches.commit_log,
    "streams index": of_streams.streams_index,
    "image file, version 2": of_images.without_context,
    "image file, version 3": of_images.with_context,
    "image file, version 4": of_images.per_image,
    "image file, version 5": of_images.fused,
    "ensemble.yaml": of_streams.ensemble,
    "checkpoint": of_models.checkpoint,
    "weights of others": of_models.weights_of_others,
    "kept result": of_models.kept_result,
    "KITTI labels": of_labels.kitti,
    "VOC labels": of_labels.voc,
    "COCO annotations": of_labels.coco,
}
"""Name -> what lays one out in an empty folder."""
