"""What caches of decoded maps have in common, whoever decodes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.schema.data import USUAL_TYPE, StoredType
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.manifest import Manifest, format_version
from data.cache.manifest_parts import LevelInfo
from data.images.records import ImageRecord, ImageSet


def decoded_dtype(dtype: StoredType) -> StoredType:
    """Return in what type decoded maps of a cache are stored.

    What a codec decodes has no ranges that are known before, so bytes do not take it.
    """
    return USUAL_TYPE if dtype == "uint8" else dtype


def decoded_plan(
    source: Manifest, levels: Sequence[LevelInfo], origin: str, dtype: StoredType, **changed: Any
) -> Manifest:
    """Return a cache's plan as that of what was decoded of it: these levels, by `origin`.

    `changed` are further fields of it.
    """
    return dataclasses.replace(
        source, levels=tuple(levels), decoded_from=origin, dtype=dtype, codes=None,
        format_version=format_version(dtype), **changed,
    )  # fmt: skip


def within_range(values: NDArray[Any], dtype: StoredType) -> Tensor:
    """Return float32 values, those that the stored type does not reach moved to its ends."""
    limit = np.float32(np.finfo(dtype).max)  # as a float of Python it would make float64 of them
    return torch.from_numpy(np.clip(values, -limit, limit))


def images_beside(folder: Path, manifest: Manifest) -> ImageSet:
    """Return the images and boxes that lie in a folder; without boxes, the manifest's images."""
    path = folder / ANNOTATIONS_NAME
    if path.exists():
        return read_annotations(path, manifest.split)
    none: NDArray[Any] = np.zeros(0, dtype=np.int64)
    return ImageSet(
        split=manifest.split,
        records=tuple(
            ImageRecord(
                image_id=sample.image_id, file=sample.file,
                height=sample.height, width=sample.width,
                boxes_xyxy=np.zeros((0, 4), dtype=np.float32),
                category_ids=none, ignored=none.astype(np.bool_),
            )
            for sample in manifest.samples
        ),
        categories={},
    )  # fmt: skip
