"""Where what a run decodes of a split is stored, and how: a cache of maps, and one of the trail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from configs.errors import CacheError
from configs.schema.training import ModelConfig
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.cache.plan import level_bytes
from data.writing.decoded import decoded_dtype, decoded_plan

PARTS = ("maps", "trail")
_UNIT_BYTES = 64 * 2**20  # what a crash may cost


def decoded_folder(source: CacheFolder, model_sha256: str) -> Path:
    """Return the folder, beside the split's own, that holds what a model decodes of it."""
    split = source.path.absolute()
    return split.parent / "decoded" / model_sha256[:16] / split.name


def decoded_plans(
    source: Manifest, level: int, model: ModelConfig, origin: str
) -> tuple[Manifest, Manifest]:
    """Return the plans of the maps and of the trail that a model decodes of a cache's level.

    The trail, as a level, has the stride and size of the model's latents. Both have the same units.
    Raises CacheError if the cache holds crops.
    """
    if source.crop is not None:
        raise CacheError(
            f"the {source.split} cache holds crops of {source.crop} positions, whose places match "
            f"in no other level: run extract-features --split {source.split} --overwrite without "
            "--crop (and without cache.crop) to train beside another level"
        )
    info = dataclasses.replace(source.level(level), derived_from=None)
    latents = 2**model.stages
    trail = dataclasses.replace(
        info, stride_px=info.stride_px * latents, num_channels=model.trail_channels
    )
    buckets, on_latents = [], []
    for bucket in source.buckets:
        height, width = bucket.level_shapes[level]
        rows, columns = -(-height // latents), -(-width // latents)
        # In four bytes, whatever the type: the two caches are to have the same units.
        most = 4 * max(height * width * info.num_channels, rows * columns * trail.num_channels)
        per_shard = {level: min(bucket.num_samples, max(1, _UNIT_BYTES // most))}
        shaped = dataclasses.replace(bucket, samples_per_shard=per_shard)
        buckets.append(dataclasses.replace(shaped, level_shapes={level: (height, width)}))
        on_latents.append(dataclasses.replace(shaped, level_shapes={level: (rows, columns)}))

    maps = decoded_plan(source, [info], origin, decoded_dtype(source.dtype), buckets=tuple(buckets))
    return maps, decoded_plan(source, [trail], origin, "float32", buckets=tuple(on_latents))


def decoded_bytes(source: Manifest, level: int, model: ModelConfig) -> int:
    """Return how many bytes maps and trail take that a model decodes of a cache's level."""
    return sum(level_bytes(plan, level) for plan in decoded_plans(source, level, model, ""))


def bytes_there(folder: Path) -> int:
    """Return how many bytes of the disk what is below a folder takes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def in_words(num_bytes: int) -> str:
    """Return a number of bytes as GB or MB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
