"""Ways to damage a cache that a test has copied, and the command that finds and mends that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from tests.support.extraction import TinyCache, run_extract

Damage = Callable[[TinyCache, int], list[Path]]


def extract(cache: TinyCache, *options: str) -> Result:
    """Run the command on the cache's own folder and kind."""
    return run_extract(cache.config, cache.folder.parent, "--container", cache.container, *options)


def images_in(cache: TinyCache, level: int, path: Path) -> set[str]:
    """The images whose samples a shard holds, from the manifest alone."""
    manifest = cache.manifest
    digits = "".join(c for c in path.name.split(".")[1 if cache.container == "zarr" else 0])
    number = int("".join(c for c in digits if c.isdigit()))
    (bucket,) = (i for i, b in enumerate(manifest.buckets) if b.array_name == path.parent.name)
    per_shard = manifest.buckets[bucket].samples_per_shard[level]
    return {
        sample.file
        for sample in manifest.samples
        if sample.bucket == bucket and sample.row // per_shard == number
    }


def flip(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    return [path]


def truncate(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.write_bytes(path.read_bytes()[:-1000])
    return [path]


def delete(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.unlink()
    return [path]


def empty(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.write_bytes(b"")
    return [path]


def swap(cache: TinyCache, level: int) -> list[Path]:
    """Exchange two shards of one bucket, or of two: the files stay whole, the images do not."""
    one, two = cache.shard_files(level)[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    return [one, two]
