"""The codes of an 8-bit cache: the ranges of its channels, found before anything is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import CacheError
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.cache.manifest_parts import SampleInfo
from data.coding.byte_code import ByteCode
from data.images.image_sets import read_planned_image
from data.system.threads import in_order
from extract.features.maps import compute_maps

_MOST_IMAGES = 64
_MOST_CORES = 16

_Ranges = dict[int, tuple[NDArray[Any], NDArray[Any]]]


def with_codes(folder: Path, manifest: Manifest, model: Any, *, overwrite: bool) -> Manifest:
    """Return the plan with its codes where it needs some: those that `folder` has, or new ones.

    New ones are a pure function of plan and detector (on a GPU, to its rounding). A folder of
    another plan, which will be refused, costs no computation. Raises CacheError if features are not
    finite; ConfigError for an image that cannot be read.
    """
    if manifest.dtype != "uint8" or manifest.codes is not None:
        return manifest
    try:
        there = CacheFolder(folder).manifest
    except CacheError:  # none, or a damaged one
        return dataclasses.replace(manifest, codes=_find_codes(manifest, model))
    if manifest.difference_from(there) is None:
        return dataclasses.replace(manifest, codes=there.codes)
    if not overwrite:
        return manifest
    return dataclasses.replace(manifest, codes=_find_codes(manifest, model))


def _find_codes(manifest: Manifest, model: Any) -> dict[int, ByteCode]:
    """Return each level's code: of the least and greatest value that each channel takes.

    In up to 64 images, at even distances in the split. Values of other images beyond them are
    clipped, and counted. A level that is derived from another has that one's code, so that it can
    be derived from its bytes.
    """
    number = min(_MOST_IMAGES, len(manifest.samples))
    places = np.linspace(0, len(manifest.samples) - 1, number).round().astype(int)
    on_cpu = next(model.parameters()).device.type == "cpu"
    num_threads = min(_MOST_CORES, torch.get_num_threads()) if on_cpu else 1

    def ranges_of(sample: SampleInfo) -> _Ranges:
        image = read_planned_image(sample.file, (sample.height, sample.width))
        maps = compute_maps(model, manifest, sample, image)
        return {
            level: (values.amin((0, 1)).numpy(), values.amax((0, 1)).numpy())
            for level, (values,) in maps.items()
        }

    found = list(
        in_order(
            ranges_of, [manifest.samples[place] for place in places.tolist()],
            num_threads=num_threads, ahead=num_threads,
        )
    )  # fmt: skip
    codes: dict[int, ByteCode] = {}
    for level in manifest.levels:
        minimum = np.min([ranges[level.index][0] for ranges in found], axis=0)
        maximum = np.max([ranges[level.index][1] for ranges in found], axis=0)
        if not np.isfinite([minimum, maximum]).all():
            raise CacheError(
                f"level {level.index}: the detector computed infinite or NaN features: "
                "check its weights"
            )
        own = ByteCode.of_ranges(minimum, maximum)
        source = None if level.derived_from is None else codes.get(level.derived_from)
        codes[level.index] = source or own
    return codes
