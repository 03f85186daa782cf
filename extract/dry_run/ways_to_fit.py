"""What makes an extraction fit the disk: settings that are checked to fit, as ready options."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from configs.schema.data import StoredType
from data.cache.manifest import Manifest
from data.cache.plan import LevelShapes, level_bytes, padded_size, resized_size
from data.images.views import is_view

_OVERHEAD = 1.01  # what data.writing.writer asks for, beyond the samples, before it begins
_STEP = 16  # crops in positions and sizes in px are proposed in multiples of it
_TRAIN_SPLIT = "train"

Shapes = Mapping[int, tuple[int, int]]


def fits(num_bytes: int, free_bytes: int) -> bool:
    """Return whether an extraction of that many bytes of samples would begin."""
    return int(num_bytes * _OVERHEAD) <= free_bytes


def ways_to_fit(manifest: Manifest, free_bytes: int, shapes_of: LevelShapes) -> list[str]:
    """Return options of extract-features, each of which alone makes it fit, least harm first.

    Storing float16 costs next to nothing, 8 bits of a training set a little; crops keep every image
    and level but cannot be evaluated on; then fewer images; then fewer levels; last a smaller
    input, as that is another detector. `shapes_of` gives the whole maps' shapes of a padded input
    size.
    """
    is_training_set = manifest.split == _TRAIN_SPLIT
    found = (
        _of_fewer_bytes(manifest, free_bytes, "float16"),
        _of_fewer_bytes(manifest, free_bytes, "uint8") if is_training_set else None,
        _crop(manifest, free_bytes),
        _limit(manifest, free_bytes),
        _coarser_levels(manifest, free_bytes),
        _smaller_input(manifest, free_bytes, shapes_of),
    )
    return [option for option in found if option is not None]


def _of_fewer_bytes(manifest: Manifest, free_bytes: int, dtype: StoredType) -> str | None:
    """Return the option that stores values as that dtype; behind it, for a shell, their bytes."""
    value_bytes = np.dtype(dtype).itemsize
    num_bytes = _total(manifest) // manifest.value_bytes * value_bytes
    if manifest.value_bytes <= value_bytes or not fits(num_bytes, free_bytes):
        return None
    return f"--dtype {dtype}  # {size_text(num_bytes)}"


def _crop(manifest: Manifest, free_bytes: int) -> str | None:
    """Return the largest crop that fits; evaluation splits need whole maps."""
    if manifest.split != _TRAIN_SPLIT:
        return None
    buckets = [(bucket.level_shapes, bucket.num_samples) for bucket in manifest.buckets]
    largest = max(side for shapes, _ in buckets for shape in shapes.values() for side in shape)
    for crop in range(largest // _STEP * _STEP, 0, -_STEP):
        cut = sum(count * _bytes_of(manifest, shapes, crop) for shapes, count in buckets)
        if fits(cut, free_bytes):
            return f"--crop {crop}"
    return None


def _limit(manifest: Manifest, free_bytes: int) -> str | None:
    """Return how many of the first images fit."""
    sizes = [_bytes_of(manifest, bucket.level_shapes) for bucket in manifest.buckets]
    # Views of image n follow at n + k times the number of images.
    num_images = sum(not is_view(sample.file) for sample in manifest.samples)
    total, number = 0, 0
    for first in range(num_images):
        total += sum(sizes[sample.bucket] for sample in manifest.samples[first::num_images])
        if not fits(total, free_bytes):
            break
        number += 1
    return f"--limit {number}" if number else None


def _coarser_levels(manifest: Manifest, free_bytes: int) -> str | None:
    """Return the levels that fit when as few of the finest as need be are left out."""
    for first in range(1, len(manifest.levels)):
        kept = [level.index for level in manifest.levels[first:]]
        if fits(sum(level_bytes(manifest, level) for level in kept), free_bytes):
            return f"--levels {','.join(map(str, kept))}"
    return None


def _smaller_input(manifest: Manifest, free_bytes: int, shapes_of: LevelShapes) -> str | None:
    """Return the largest input size that fits, in steps of 16 px of its shorter side."""
    detector = manifest.detector
    originals = Counter((sample.height, sample.width) for sample in manifest.samples)
    shorter = min(detector["resize"]) if detector["resize"] else detector["min_size"]
    for size in _sizes_below(shorter, math.sqrt(free_bytes / _total(manifest))):
        fixed = None
        if detector["resize"]:
            height, width = (side * size // shorter for side in detector["resize"])
            fixed = (width, height)
            option = f"--set detector.resize=[{height},{width}]"
        else:
            option = f"--set detector.min_size={size}"
        inputs: Counter[tuple[int, int]] = Counter()
        for (height_px, width_px), count in originals.items():
            resized = resized_size(
                height_px, width_px, min_size=size, max_size=detector["max_size"], fixed=fixed
            )
            inputs[padded_size(*resized, detector["size_divisible"])] += count
        if min(side for padded in inputs for side in padded) == 0:
            return None
        total = sum(
            count * _bytes_of(manifest, shapes_of(*padded), manifest.crop)
            for padded, count in inputs.items()
        )
        if fits(total, free_bytes):
            return option
    return None


def _sizes_below(size_px: int, scale: float) -> Iterator[int]:
    """Yield sizes to try, from just above the scaled one downwards: bytes go with the square."""
    start = min(size_px - 1, int(size_px * scale) + _STEP)
    yield from range(start // _STEP * _STEP, 0, -_STEP)


def _total(manifest: Manifest) -> int:
    return sum(level_bytes(manifest, level.index) for level in manifest.levels)


def _bytes_of(manifest: Manifest, shapes: Shapes, crop: int | None = None) -> int:
    """Return the bytes of one sample at all stored levels, its maps cut to `crop` positions."""
    positions = 0
    for level in manifest.levels:
        height, width = shapes[level.index]
        if crop is not None:
            height, width = min(height, crop), min(width, crop)
        positions += height * width * level.num_channels
    return positions * manifest.value_bytes


def size_text(num_bytes: int) -> str:
    """Return bytes as a user reads them."""
    return f"{num_bytes / 1e9:.3f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3f} MB"
