"""What an extraction will cost, before a byte is written: sizes exactly, time from a few images."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import CacheError
from data.images import read_image
from data.manifest import Manifest
from data.plan import level_bytes, samples_by_bucket
from extract.maps import compute_maps

_TIMED_IMAGES = 4
_TIMED_WRITE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Per level (index, stride px, bytes, shards), and totals; rates measured on this machine."""

    levels: list[tuple[int, int, int, int]]
    num_images: int
    num_buckets: int
    images_per_s: float
    write_bytes_per_s: float
    free_bytes: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all levels."""
        return sum(level[2] for level in self.levels)

    @property
    def seconds(self) -> float:
        """Expected duration: computing and writing overlap, the slower one counts."""
        return max(self.num_images / self.images_per_s, self.num_bytes / self.write_bytes_per_s)

    def table(self) -> str:
        """Return the estimate as text."""
        lines = [f"{'level':>5} {'stride':>6} {'size':>12} {'share':>7} {'shards':>7}"]
        total = max(1, self.num_bytes)
        for index, stride, size, shards in self.levels:
            lines.append(
                f"{index:>5} {stride:>6} {_size(size):>12} {size / total:>7.1%} {shards:>7}"
            )
        num_shards = sum(level[3] for level in self.levels)
        lines.append(
            f"{self.num_images} images in {self.num_buckets} buckets, "
            f"{_size(self.num_bytes)} in {num_shards} shards; "
            f"{self.free_bytes / 1e9:.1f} GB free"
        )
        lines.append(
            f"measured: {self.images_per_s:.2f} images/s, write "
            f"{self.write_bytes_per_s / 1e6:.0f} MB/s; about {_duration(self.seconds)}"
        )
        if self.num_bytes > self.free_bytes:
            coarse = sum(level[2] for level in self.levels[1:])
            lines.append(
                "does not fit: "
                f"--limit {int(self.num_images * self.free_bytes / total * 0.95)} would fit; "
                f"without the finest level (--levels "
                f"{','.join(str(level[0]) for level in self.levels[1:])}) it is "
                f"{coarse / 1e9:.1f} GB; a smaller detector.min_size shrinks all levels"
            )
        return "\n".join(lines)


def estimate(manifest: Manifest, model: Any, folder: Path) -> Estimate:
    """Time a few real images of the largest bucket spread, and a real write beside `folder`."""
    buckets = [members for members in samples_by_bucket(manifest) if members]
    picks = [manifest.samples[group[0]] for group in buckets]
    step = max(1, len(picks) // _TIMED_IMAGES)
    picks = picks[::step][:_TIMED_IMAGES]
    compute_maps(model, manifest, picks[:1], [read_image(picks[0].file)])  # warm-up
    start = time.perf_counter()
    for sample in picks:
        compute_maps(model, manifest, [sample], [read_image(sample.file)])
    images_per_s = len(picks) / (time.perf_counter() - start)
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    return Estimate(
        levels=[
            (
                level.index,
                level.stride_px,
                level_bytes(manifest, level.index),
                sum(bucket.num_shards(level.index) for bucket in manifest.buckets),
            )
            for level in manifest.levels
        ],
        num_images=len(manifest.samples),
        num_buckets=len(manifest.buckets),
        images_per_s=images_per_s,
        write_bytes_per_s=_write_rate(existing),
        free_bytes=shutil.disk_usage(existing).free,
    )


def _write_rate(folder: Path) -> float:
    """Write and sync a temporary file; return bytes per second. CacheError if that fails."""
    block = np.random.default_rng(0).bytes(_TIMED_WRITE_BYTES)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _TIMED_WRITE_BYTES / (time.perf_counter() - start)
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror}): "
            "free space, or choose another --features"
        ) from error


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.0f} s"
