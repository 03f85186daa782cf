"""Caches in 8 bits: the codes are found once, and give the same bytes whatever happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.cache.containers import STORES, rows_of_shard
from data.cache.manifest import FILE_NAME, Manifest
from data.cache.plan import units_of
from data.images.image_sets import read_planned_image
from data.reading.level_reader import LevelReader
from data.writing.writer import CacheWriter
from extract.features.maps import compute_maps
from tests.support.extraction import (
    TinyCache,
    error_of,
    fingerprints,
    must_extract,
    plan_of,
    run_extract,
)


@pytest.fixture(autouse=True)
def codes_of_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of `byte_cache`: others have values beyond them."""
    monkeypatch.setattr("extract.features.channel_codes._MOST_IMAGES", 2)


@pytest.fixture
def copied(byte_cache: TinyCache, tmp_path: Path) -> TinyCache:
    """A cache that a test may damage."""
    folder = tmp_path / "train"
    shutil.copytree(byte_cache.folder, folder)
    return TinyCache(folder=folder, container=byte_cache.container, config=byte_cache.config)


def options_of(cache: TinyCache) -> tuple[str, ...]:
    return "--dtype", "uint8", "--container", cache.container


def sample_offsets(cache: TinyCache, level: int) -> tuple[list[int], Path]:
    """Where the samples of the first bucket's first shard begin, and its file."""
    manifest, store = cache.manifest, STORES[cache.container]
    path = store.shard_path(cache.folder, manifest, level, 0, 0)
    num_samples = len(rows_of_shard(manifest, level, 0, 0))
    capacity = manifest.buckets[0].samples_per_shard[level]
    offsets = store.shard_offsets(path, num_samples, capacity, manifest.sample_bytes(level, 0))
    return offsets.tolist(), path


def flip(path: Path, place: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def no_codes_are_sought(*_: object) -> None:
    raise AssertionError("the codes are there")


def bytes_by_others(cache: TinyCache, level: int) -> dict[int, tuple[Any, Any, Any]]:
    """Sample -> bytes [H, W, C], scale and offset, as zarr-python or h5py reads them."""
    manifest, found = cache.manifest, {}
    for index, sample in enumerate(manifest.samples):
        bucket = manifest.buckets[sample.bucket]
        if cache.container == "zarr":
            zarr = pytest.importorskip("zarr")
            group: Any = zarr.open_group(cache.folder / f"level_{level}.zarr", mode="r")
            stored, row = group[bucket.array_name], sample.row
        else:
            import h5py

            shard, row = divmod(sample.row, bucket.samples_per_shard[level])
            path = cache.folder / f"level_{level}" / bucket.array_name / f"shard-{shard:05d}.h5"
            group = h5py.File(path, "r")
            stored = group["features"]
        assert stored.attrs["value"] == "stored * scale + offset, float32, per channel"
        found[index] = (stored[row], group["scale"][:], group["offset"][:])
    return found


def test_zarr_python_and_h5py_undo_the_code_by_the_arrays_beside_the_maps(
    byte_cache: TinyCache,
) -> None:
    for level in (0, 4):
        with LevelReader(byte_cache.folder, level) as reader:
            for index, (stored, scale, offset) in bytes_by_others(byte_cache, level).items():
                assert (stored.dtype, scale.dtype) == (np.uint8, np.float32)
                values = stored * scale + offset
                np.testing.assert_array_equal(values, reader.sample(index))


def test_stored_are_the_nearest_codes_of_the_detector_s_maps_and_what_was_clipped_is_counted(
    byte_cache: TinyCache,
) -> None:
    plan, detector = plan_of(byte_cache.config)
    clipped = np.zeros((5, 256))
    squared_error = np.zeros((5, 256))
    with_readers = [LevelReader(byte_cache.folder, level) for level in range(5)]
    for index, sample in enumerate(plan.samples):
        image = read_planned_image(sample.file, (sample.height, sample.width))
        for level, (computed,) in compute_maps(detector.model, plan, sample, image).items():
            reader, values = with_readers[level], computed.numpy()
            assert reader.code is not None
            steps = np.rint((values - reader.code.offsets) / reader.code.scales)
            expected = reader.code.decoded(np.clip(steps, 0, 255).astype(np.uint8))
            np.testing.assert_array_equal(reader.sample(index), expected)
            clipped[level] += ((steps < 0) | (steps > 255)).sum((0, 1))
            squared_error[level] += ((expected.astype(np.float64) - values) ** 2).sum((0, 1))
    for level, reader in enumerate(with_readers):
        np.testing.assert_array_equal(reader.statistics.num_clipped, clipped[level])
        np.testing.assert_allclose(
            reader.statistics.channel_squared_error, squared_error[level], rtol=1e-4, atol=1e-9
        )
        reader.close()
    assert clipped[0].sum() > 0


def test_level_derived_from_another_is_derivable_from_its_bytes(byte_cache: TinyCache) -> None:
    assert byte_cache.manifest.level(4).derived_from == 3
    with LevelReader(byte_cache.folder, 3) as source, LevelReader(byte_cache.folder, 4) as derived:
        for index in range(derived.num_samples):
            np.testing.assert_array_equal(source.sample(index)[::2, ::2], derived.sample(index))


def test_interrupted_extraction_goes_on_with_its_codes_to_the_same_bytes_in_other_batches(
    byte_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, options = CacheWriter._commit, options_of(byte_cache)

    def commit_two(writer: CacheWriter, unit: Any, progress: Any) -> None:
        if unit.index == 2:
            raise RuntimeError("the lights went out")
        commit(writer, unit, progress)

    with monkeypatch.context() as patched:
        patched.setattr(CacheWriter, "_commit", commit_two)
        assert run_extract(byte_cache.config, tmp_path, *options).exit_code == 1
    assert len(units_of(Manifest.load(tmp_path / "train"))) > 3
    monkeypatch.setattr("extract.features.channel_codes._find_codes", no_codes_are_sought)
    folder = must_extract(byte_cache.config, tmp_path, *options, "--batch-size", "3")
    assert fingerprints(folder) == fingerprints(byte_cache.folder)


def test_damage_is_found_and_mended_to_the_same_bytes(copied: TinyCache) -> None:
    before = fingerprints(copied.folder)
    features, options = copied.folder.parent, options_of(copied)
    (place, *_), sample_path = sample_offsets(copied, 1)
    flip(sample_path, place)
    if copied.container == "zarr":
        told_of_arrays = "missing, or differs from the manifest"
        arrays = copied.folder / "level_2.zarr" / "scale" / "c.0"
        flip(arrays, 7)
    else:
        told_of_arrays = "its scale or offset differs from the manifest"
        arrays = copied.shard_files(2)[0]
        flip(arrays, arrays.read_bytes().rindex(copied.manifest.code(2).offsets.tobytes()) + 7)
    told = run_extract(copied.config, features, "--verify").output
    assert f"{sample_path}: 1 of " in told and "differ from their checksums" in told
    assert f"{arrays}: {told_of_arrays}" in told
    must_extract(copied.config, features, *options)
    assert "whole" in run_extract(copied.config, features, "--verify").output
    after = fingerprints(copied.folder)
    assert {name for name in before if before[name] != after[name]} == {"commits.jsonl"}


def test_manifest_that_is_gone_is_written_anew_with_the_same_codes(copied: TinyCache) -> None:
    before = fingerprints(copied.folder)
    (copied.folder / FILE_NAME).unlink()
    must_extract(copied.config, copied.folder.parent, *options_of(copied))
    assert fingerprints(copied.folder) == before


def test_cache_of_another_dtype_is_refused_before_anything_is_computed(
    copied: TinyCache, zarr_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.features.channel_codes._find_codes", no_codes_are_sought)
    error = error_of(
        run_extract(copied.config, copied.folder.parent, "--container", copied.container)
    )
    assert "(dtype: 'uint8' there, 'float16' now)" in error
    error = error_of(run_extract(zarr_cache.config, zarr_cache.folder.parent, "--dtype", "uint8"))
    assert "(dtype: 'float16' there, 'uint8' now)" in error


def test_caches_in_8_bits_alone_are_of_format_version_2(
    byte_cache: TinyCache, zarr_cache: TinyCache
) -> None:
    assert byte_cache.manifest.format_version == 2
    assert zarr_cache.manifest.format_version == 1
    assert b"codes" not in (zarr_cache.folder / FILE_NAME).read_bytes()
