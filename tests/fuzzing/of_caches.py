"""Files of a cache: its manifest, an index of each container, and the log of its commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.commit_log import (
    _sealed,
    _unsealed,
    expected_checksums,
    fitting,
    hash_log,
    read_log,
)
from data.cache.containers import STORES, level_metadata, shards_of
from data.cache.hdf5_container import holds_arrays
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo, SkippedInfo
from data.cache.plan import plan_samples, samples_by_bucket, units_of
from data.coding.byte_code import ByteCode
from data.images.records import ImageFiles, ImageRecord
from data.reading.level_reader import LevelReader
from tests.fuzzing.subject import Subject
from tests.support.small_caches import SYNTHETIC_DETECTOR, random_maps, write_maps


def small_manifest(dtype: str = "float16") -> Manifest:
    """A manifest of three levels and two buckets, with all that one can have."""
    levels = tuple(
        LevelInfo(index=index, key=key, stride_px=4 << index, num_channels=2, derived_from=source)
        for index, key, source in ((0, "0", None), (1, "1", None), (2, "pool", 1))
    )
    sizes = [(32, 64), (64, 32), (32, 64), (32, 60)]
    records = [
        ImageRecord(
            image_id=7 * number, file=f"images/{number}.png", height=2 * height, width=2 * width,
            boxes_xyxy=np.zeros((0, 4), np.float32), category_ids=np.zeros(0, np.int64),
            ignored=np.zeros(0, bool),
        )
        for number, (height, width) in enumerate(sizes, start=1)
    ]  # fmt: skip
    buckets, samples = plan_samples(
        records, sizes, levels=levels, divisible=32, bytes_per_value=2, max_shard_bytes=1100,
        shapes_of=lambda height, width: {
            level.index: (height // level.stride_px, width // level.stride_px) for level in levels
        },
    )  # fmt: skip
    in_bytes = dtype == "uint8"
    code = ByteCode(scale=(0.5, 0.25), offset=(-1.5, 0.0))
    return Manifest(
        format_version=2 if in_bytes else 1, dataset="small", split="val", dtype=dtype,
        container="hdf5" if in_bytes else "zarr", detector=SYNTHETIC_DETECTOR, levels=levels,
        buckets=buckets, samples=samples, codes=dict.fromkeys(range(3), code) if in_bytes else None,
        crop=None if in_bytes else 64, image_limit=5,
        skipped=(SkippedInfo(file="images/9.png", reason="no such image"),),
        augmentation={"views": 2, "seed": 1} if in_bytes else None,
        image_files=ImageFiles(folder="images", xxh3="ab" * 16),
    )  # fmt: skip


def believed(manifest: Manifest, cache: Path) -> object:
    """Return what commands make of a manifest that has been read, none of which may fail."""
    for level in manifest.levels:
        level_metadata(cache, manifest, level.index)
        expected_checksums(manifest, {}, level.index)
        for bucket in range(len(manifest.buckets)):
            assert manifest.sample_bytes(level.index, bucket) > 0
    paths = [
        STORES[manifest.container].shard_path(cache, manifest, *shard)
        for shard in shards_of(manifest)
    ]
    assert all(path.resolve().is_relative_to(cache.resolve()) for path in paths)
    assert sum(unit.num_rows for unit in units_of(manifest)) == len(manifest.samples)
    members = samples_by_bucket(manifest)
    assert sorted(np.concatenate([*members]).tolist()) == list(range(len(manifest.samples)))
    manifest.difference_from(small_manifest())
    small_manifest().difference_from(manifest)
    text = manifest.to_json()
    assert Manifest.from_json(json.loads(text)).to_json() == text
    return manifest.fingerprint


def manifest(folder: Path) -> Subject:
    """manifest.json of a cache in float16, and of one in 8 bits."""
    whole = [small_manifest(dtype).to_json().encode() for dtype in ("float16", "uint8")]
    return Subject(
        path=folder / MANIFEST_NAME,
        whole=whole,
        read=lambda: believed(Manifest.load(folder), folder),
        contents=[json.loads(data) for data in whole],
        rendered=lambda raw: json.dumps(raw).encode(),
    )


def _values(cache: Path) -> object:
    """Read a level's shards, index by index, and every value."""
    with LevelReader(cache, 0, verify="size") as reader:
        values = [reader.sample(index).sum(dtype=np.float64) for index in range(reader.num_samples)]
    assert len(values) == 3
    return values


def zarr_shard(folder: Path) -> Subject:
    """A shard of three samples, whose index stands behind them."""
    cache = write_maps(folder / "cache", random_maps([(3, 4)] * 3, 2, seed=1))
    path = STORES["zarr"].shard_path(cache, Manifest.load(cache), 0, 0, 0)
    data = path.read_bytes()
    values, index = data[: 3 * 48], np.frombuffer(data[3 * 48 : -4], "<u8").tolist()

    def rendered(raw: Any) -> bytes:
        fields = [np.uint64(each % 2**64) for each in raw["index"] if type(each) is int]
        body = np.array(fields, "<u8").tobytes()
        crc = google_crc32c.value(body).to_bytes(4, "little")
        return values[: raw["bytes"] if type(raw.get("bytes")) is int else None] + body + crc

    return Subject(
        path=path,
        whole=[data],
        read=lambda: _values(cache),
        sealed=lambda body: body + google_crc32c.value(body[3 * 48 :]).to_bytes(4, "little"),
        body=lambda data: data[:-4],
        contents=[{"index": index, "bytes": len(values)}],
        rendered=rendered,
        odd_values=(48, 96, 144, 192, 2**64 - 48, 2**63 - 48),
    )


def hdf5_shard(folder: Path) -> Subject:
    """A shard as we write it, and one as older libraries do, in which nothing has a checksum."""
    maps = random_maps([(3, 4)] * 3, 2, seed=1)
    cache = write_maps(folder / "cache", maps, container="hdf5")
    path = STORES["hdf5"].shard_path(cache, Manifest.load(cache), 0, 0, 0)
    scale = np.ones(2, np.float32)
    with h5py.File(folder / "older.h5", "w", libver="earliest") as file:
        file.create_dataset("features", data=np.stack(maps), chunks=(1, 3, 4, 2))
        file["scale"] = scale
    older = (folder / "older.h5").read_bytes()

    def read() -> object:
        holds_arrays(path, {"scale": scale})
        return _values(cache)

    return Subject(path=path, whole=[path.read_bytes(), older, older], read=read)


def commit_log(folder: Path) -> Subject:
    """commits.jsonl: a plan, three units, and one that was found damaged."""
    cache = write_maps(folder / "cache", random_maps([(3, 4), (4, 3), (5, 5)], 2, seed=1))
    plan = Manifest.load(cache)
    path = cache / LOG_NAME
    whole = path.read_bytes() + _sealed({"unit": 1, "damaged": [0]})
    contents = [_unsealed(line) for line in whole.splitlines()]
    for raw in contents:
        for level, text in raw.get("statistics", {}).items():
            raw["statistics"][level] = json.loads(text)

    def line(raw: Any) -> bytes:
        if isinstance(raw, dict) and isinstance(raw.get("statistics"), dict):
            texts = {k: json.dumps(v) for k, v in raw["statistics"].items()}
            raw = raw | {"statistics": texts}
        return _sealed(raw) if isinstance(raw, dict) and raw else b"{}\n"

    def read() -> object:
        commits = fitting(read_log(cache)[1], plan)
        parts = [commit.statistics[0] for commit in commits.values() if commit.statistics]
        if parts:
            merged = ChannelStatistics.merged(parts)
            ChannelStatistics.from_json(merged.to_json())
        expected_checksums(plan, fitting(read_log(cache, statistics=False)[1], plan), 0)
        return hash_log(cache, with_plan=True)

    def resealed(body: bytes) -> bytes:
        return b"".join(_of_line(line) for line in body.splitlines(keepends=True))

    return Subject(
        path=path,
        whole=[whole],
        read=read,
        sealed=resealed,
        contents=[contents],
        rendered=lambda raw: b"".join(map(line, raw)),
    )


def _of_line(line: bytes) -> bytes:
    import xxhash

    body, found, _ = line.rpartition(b',"line":"')
    if not found:
        return line
    return body + found + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n'
