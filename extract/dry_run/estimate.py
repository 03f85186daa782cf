"""What an extraction will cost, before it is begun: sizes exactly, time from a few real images."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.errors import CacheError
from data.cache.cache_folder import CacheFolder
from data.cache.containers import STORES, level_arrays, rows_of_shard
from data.cache.manifest import Manifest
from data.cache.plan import level_bytes, units_of
from data.cache.units_due import bytes_to_lay_out, levels_due
from data.costs.cost_model import hours
from extract.detector.pyramid import level_shapes
from extract.dry_run.timing import Speed, measure_speed
from extract.dry_run.ways_to_fit import fits, size_text, ways_to_fit


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelSize:
    """What a level takes: bytes of its samples, and files that hold them."""

    index: int
    stride_px: int
    num_bytes: int
    num_shards: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Sizes of a cache, speed of this machine, and what to change if the disk is too small."""

    levels: list[LevelSize]
    num_images: int
    num_buckets: int
    num_files: int
    disk_bytes: int
    """Of all shard files, containers' indexes included."""
    speed: Speed
    free_bytes: int
    """Of the disk, without what the splits before this one will take."""
    num_there: int
    """Of the images, those that an earlier run has stored."""
    num_units_due: int
    """What is committed at once, as far as it is not."""
    needed_bytes: int
    """Of samples in shards that have no file yet."""
    ways_to_fit: list[str]
    """Options that make it fit, each alone; empty if it fits, or has been begun."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all samples of all levels."""
        return sum(level.num_bytes for level in self.levels)

    @property
    def seconds(self) -> float:
        """Expected duration of what is still to be done."""
        return (self.num_images - self.num_there) / self.speed.images_per_s

    def table(self) -> str:
        """Return the estimate as text."""
        lines = [f"{'level':>5} {'stride':>6} {'size':>12} {'share':>7} {'shards':>7}"]
        for level in self.levels:
            share = level.num_bytes / self.num_bytes
            lines.append(
                f"{level.index:>5} {level.stride_px:>6} {size_text(level.num_bytes):>12} "
                f"{share:>7.1%} {level.num_shards:>7}"
            )
        num_shards = sum(level.num_shards for level in self.levels)
        lines += [
            f"{self.num_images} images in {self.num_buckets} buckets, "
            f"{size_text(self.num_bytes)} in {num_shards} shards; {self.num_files} files, "
            f"{size_text(self.disk_bytes)} on disk; {self.free_bytes / 1e9:.1f} GB free",
            f"measured: {self.speed.images_per_s:.2f} images/s, the disk writes "
            f"{self.speed.write_bytes_per_s / 1e6:.0f} MB/s; about {hours(self.seconds)}",
        ]
        if self.num_there:
            lines.append(
                f"{self.num_there} of the images are there already, "
                f"{size_text(self.needed_bytes)} are still needed"
            )
        if self.num_there and not fits(self.needed_bytes, self.free_bytes):
            lines.append("does not fit: free space")
        elif self.ways_to_fit:
            lines += [
                "does not fit; each of these alone would, the least harmful first:",
                *(f"  {option}" for option in self.ways_to_fit),
            ]
        return "\n".join(lines)


def estimate(
    manifest: Manifest,
    model: Any,
    folder: Path | str,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    promised_bytes: int = 0,
) -> Estimate:
    """Measure for a cache at `folder`, beside which a temporary folder lies meanwhile.

    `promised_bytes` of the free ones go to other splits. Raises CacheError if nothing can be
    written there, or not even a few images.
    """
    folder = Path(folder)
    parent = _existing_folder(folder)
    free_bytes = shutil.disk_usage(parent).free
    num_there, num_units_due, needed_bytes = _still_needed(folder, manifest)
    left_bytes = max(0, free_bytes - promised_bytes)
    levels = [
        LevelSize(
            index=level.index,
            stride_px=level.stride_px,
            num_bytes=level_bytes(manifest, level.index),
            num_shards=sum(bucket.num_shards(level.index) for bucket in manifest.buckets),
        )
        for level in manifest.levels
    ]
    try:
        with _scratch_folder(parent) as scratch:
            disk_bytes = _shard_bytes(manifest, scratch)
            speed = measure_speed(
                manifest,
                model,
                scratch,
                free_bytes=free_bytes,
                batch_size=batch_size,
                num_workers=num_workers,
            )
    except OSError as error:
        raise CacheError(
            f"{parent}: cannot be written ({error.strerror or error}): "
            "free space, or choose another --features"
        ) from error
    return Estimate(
        levels=levels,
        num_images=len(manifest.samples),
        num_buckets=len(manifest.buckets),
        num_files=_num_files(manifest, sum(level.num_shards for level in levels)),
        disk_bytes=disk_bytes,
        speed=speed,
        free_bytes=left_bytes,
        num_there=num_there,
        num_units_due=num_units_due,
        needed_bytes=needed_bytes,
        ways_to_fit=[]
        if num_there or fits(needed_bytes, left_bytes)
        else ways_to_fit(manifest, left_bytes, level_shapes(model)),
    )


def _still_needed(folder: Path, manifest: Manifest) -> tuple[int, int, int]:
    """Return how many images a cache of this very plan has, and what it lacks: units, and bytes."""
    there = CacheFolder(folder)
    try:
        begun = manifest.difference_from(there.manifest) is None
    except CacheError:  # there is none, or one that cannot be read
        begun = False
    due = levels_due(folder, manifest, there.commits if begun else {})
    units = units_of(manifest)
    num_there = sum(unit.num_rows for unit in units if not due[unit.index])
    if begun:
        num_due = sum(bool(due[unit.index]) for unit in units)
        return num_there, num_due, bytes_to_lay_out(folder, manifest, due)
    return 0, len(units), sum(level_bytes(manifest, level.index) for level in manifest.levels)


@contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a temporary folder; remove those of processes of this machine that were killed."""
    prefix = f".dry-run-{socket.gethostname()}-"
    for left in parent.glob(f"{prefix}*"):
        number = left.name.removeprefix(prefix).partition("-")[0]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=parent, prefix=f"{prefix}{os.getpid()}-") as scratch:
        yield Path(scratch)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of somebody else
        pass
    return True


def _existing_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    found = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not found.is_dir():
        raise CacheError(f"{found}: is no folder: choose another --features")
    return found


def _shard_bytes(manifest: Manifest, scratch: Path) -> int:
    """Return the size of all shard files, by laying out one of each kind (sparse: no space)."""
    store = STORES[manifest.container]

    @cache
    def laid_out(num_samples: int, capacity: int, shape: tuple[int, int, int], level: int) -> int:
        path = scratch / "shard"
        beside = level_arrays(manifest, level)
        store.create_shard(path, num_samples, capacity, shape, manifest.dtype, {}, beside)
        num_bytes = path.stat().st_size
        path.unlink()
        return num_bytes

    return sum(
        laid_out(
            len(rows_of_shard(manifest, level.index, number, shard)),
            bucket.samples_per_shard[level.index],
            manifest.sample_shape(level.index, number),
            level.index,
        )
        for level in manifest.levels
        for number, bucket in enumerate(manifest.buckets)
        for shard in range(bucket.num_shards(level.index))
    )


def _num_files(manifest: Manifest, num_shards: int) -> int:
    """Return how many files a finished cache consists of."""
    arrays = len(manifest.buckets) if manifest.container == "zarr" else 0
    if manifest.container == "zarr" and manifest.dtype == "uint8":
        arrays += 4  # of scale and offset a description and a chunk each
    # A level has a description, one for each array in Zarr, and its statistics; a cache has its
    # manifest, annotations and commits.
    return num_shards + len(manifest.levels) * (arrays + 2) + 3
