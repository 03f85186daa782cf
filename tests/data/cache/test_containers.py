"""Both containers keep one contract, and anybody's reader finds the same arrays in them."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest

from configs.errors import CacheError
from data.cache import hdf5_container, zarr_container
from data.cache.channel_statistics import ChannelStatistics, statistics_path
from data.cache.manifest import FILE_NAME, Manifest
from data.reading.level_reader import LevelReader
from tests.support.extraction import TinyCache, must_extract

LEVELS = range(5)
AXES = ("sample", "height", "width", "channel")


@pytest.fixture
def copied(tiny_cache: TinyCache, tmp_path: Path) -> TinyCache:
    """A copy of the cache that may be damaged."""
    folder = tmp_path / "train"
    shutil.copytree(tiny_cache.folder, folder)
    return TinyCache(folder=folder, container=tiny_cache.container, config=tiny_cache.config)


def rows_read_by_others(cache: TinyCache, level: int, bucket: int) -> np.ndarray:
    """A bucket's array [n, H, W, C] as the container's own library reads it."""
    name = cache.manifest.buckets[bucket].array_name
    if cache.container == "zarr":
        zarr = pytest.importorskip("zarr")  # it needs Python 3.11
        return np.asarray(zarr.open_group(cache.folder / f"level_{level}.zarr", mode="r")[name])
    parts = []
    for path in sorted((cache.folder / f"level_{level}" / name).glob("shard-*.h5")):
        with h5py.File(path) as file:
            parts.append(file["features"][...])
    return np.concatenate(parts)


@pytest.mark.parametrize("level", LEVELS)
def test_library_of_the_container_reads_the_arrays_that_our_reader_reads(
    tiny_cache: TinyCache, level: int
) -> None:
    manifest = tiny_cache.manifest
    arrays = [rows_read_by_others(tiny_cache, level, b) for b in range(len(manifest.buckets))]
    assert [len(array) for array in arrays] == [b.num_samples for b in manifest.buckets]
    with LevelReader(tiny_cache.folder, level) as reader:
        for index, sample in enumerate(manifest.samples):
            ours = reader.sample(index)
            assert ours.shape == reader.shape(index) == arrays[sample.bucket].shape[1:]
            assert ours.dtype == arrays[sample.bucket].dtype == np.float16
            np.testing.assert_array_equal(ours, arrays[sample.bucket][sample.row])


def test_tensorstore_reads_the_arrays_that_our_reader_reads(zarr_cache: TinyCache) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    manifest = zarr_cache.manifest
    for level in LEVELS:
        folder = zarr_cache.folder / f"level_{level}.zarr"
        arrays = [
            tensorstore.open(
                {"driver": "zarr3", "kvstore": f"file://{folder / bucket.array_name}/"}
            ).result()
            for bucket in manifest.buckets
        ]
        with LevelReader(zarr_cache.folder, level) as reader:
            for index, sample in enumerate(manifest.samples):
                theirs = arrays[sample.bucket][sample.row].read().result()
                np.testing.assert_array_equal(reader.sample(index), theirs)


def test_buckets_lie_in_several_shards_and_a_coarse_shard_holds_several_units(
    tiny_cache: TinyCache,
) -> None:
    assert len(tiny_cache.manifest.buckets) == 3
    assert [len(tiny_cache.shard_files(level)) for level in LEVELS] == [8, 4, 3, 3, 3]


def test_zarr_arrays_carry_dimension_names_level_stride_and_units(zarr_cache: TinyCache) -> None:
    zarr = pytest.importorskip("zarr")
    for level in zarr_cache.manifest.levels:
        group = zarr.open_group(zarr_cache.folder / f"level_{level.index}.zarr", mode="r")
        for bucket in zarr_cache.manifest.buckets:
            array = group[bucket.array_name]
            own = tuple(f"{name}_{bucket.array_name}" for name in AXES[:3])
            assert array.metadata.dimension_names == (*own, "channel")
            assert array.chunks == (1, *array.shape[1:])
            assert array.attrs["input_size_px"] == [bucket.height_px, bucket.width_px]
            for attributes in (group.attrs, array.attrs):
                assert attributes["level"] == level.index
                assert attributes["key"] == level.key
                assert attributes["stride_px"] == level.stride_px
                assert attributes["units"] == "detector feature value (dimensionless)"
                assert attributes["detector"] == "fasterrcnn_mobilenet_v2_fpn"


def test_dimension_of_a_level_s_group_has_one_size(zarr_cache: TinyCache) -> None:
    # As xarray.open_dataset(folder, group=...) asks for.
    for folder in zarr_cache.folder.glob("level_*.zarr"):
        sizes: dict[str, set[int]] = {}
        for path in folder.glob("*/zarr.json"):
            array = json.loads(path.read_text())
            for name, size in zip(array["dimension_names"], array["shape"], strict=True):
                sizes.setdefault(name, set()).add(size)
        assert len(sizes) == 3 * 3 + 1
        assert all(len(found) == 1 for found in sizes.values()), sizes


def test_xarray_opens_a_level_s_group(zarr_cache: TinyCache) -> None:
    xarray = pytest.importorskip("xarray")
    for level in LEVELS:
        found = xarray.open_zarr(zarr_cache.folder / f"level_{level}.zarr", consolidated=False)
        assert set(found) == {bucket.array_name for bucket in zarr_cache.manifest.buckets}


def test_hdf5_shards_carry_dimension_names_level_stride_and_units(tiny_cache: TinyCache) -> None:
    if tiny_cache.container != "hdf5":
        pytest.skip("the zarr arrays have a test of their own")
    for level in tiny_cache.manifest.levels:
        for path in tiny_cache.shard_files(level.index):
            with h5py.File(path) as file:
                dataset = file["features"]
                assert tuple(axis.label for axis in dataset.dims) == AXES
                assert dataset.chunks == (1, *dataset.shape[1:])
                assert dataset.attrs["level"] == level.index
                assert dataset.attrs["key"] == level.key
                assert dataset.attrs["stride_px"] == level.stride_px
                assert dataset.attrs["units"] == "detector feature value (dimensionless)"
                assert dataset.attrs["detector"] == "fasterrcnn_mobilenet_v2_fpn"


def test_level_of_more_shards_than_files_may_be_open_is_read(tiny_cache: TinyCache) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 4, hard))
    try:
        with LevelReader(tiny_cache.folder, 0) as reader:
            assert len({reader.sample(index).tobytes() for index in range(8)}) == 8
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_samples_are_views_that_cannot_be_written(tiny_cache: TinyCache) -> None:
    with (
        LevelReader(tiny_cache.folder, 0) as reader,
        pytest.raises(ValueError, match="read-only"),
    ):
        reader.sample(0)[0] = 0


def test_finished_cache_has_no_part_files(tiny_cache: TinyCache) -> None:
    assert not [path for path in tiny_cache.folder.rglob("*") if path.suffix == ".part"]


@pytest.mark.parametrize("kept", [slice(None, -1000), slice(1000, None)], ids=["end", "start"])
def test_shard_cut_short_is_one_line_that_names_it_and_the_way_out(
    copied: TinyCache, kept: slice
) -> None:
    path = copied.shard_files(1)[0]
    path.write_bytes(path.read_bytes()[kept])
    with pytest.raises(CacheError) as caught:
        LevelReader(copied.folder, 1)
    assert str(caught.value).startswith(f"level 1, {path}: the shard")
    assert str(caught.value).endswith(
        "run extract-features --split train again, it mends what is broken"
    )
    assert "\n" not in str(caught.value)


def test_damaged_index_is_one_line_that_names_the_shard(copied: TinyCache) -> None:
    path = copied.shard_files(2)[1]
    content = bytearray(path.read_bytes())
    for place in range(-20, -8) if copied.container == "zarr" else range(8, 48):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(CacheError) as caught:
        LevelReader(copied.folder, 2)
    assert str(caught.value).startswith(f"level 2, {path}: the shard")
    assert "damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


BEYOND = [2**64 - 2, 2**64 - 24, 2**63, 2**63 - 8, 2**62]


@pytest.mark.parametrize("offset", [*BEYOND, 2**64 - 1, 8, 17], ids=hex)
def test_zarr_index_that_leads_out_of_the_file_or_into_another_sample_is_refused(
    tmp_path: Path, offset: int
) -> None:
    path = tmp_path / "c.0.0.0.0"
    zarr_container.create_shard(path, 3, 3, (2, 2, 2), "float16", {}, {})
    index = np.array([[0, 16], [offset, 16], [32, 16]], dtype="<u8").tobytes()
    crc = google_crc32c.value(index).to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[:48] + index + crc)
    with pytest.raises(CacheError, match="truncated or of another shape"):
        zarr_container.shard_offsets(path, 3, 3, 16)


def chunked_file(path: Path, **filters: Any) -> list[int]:
    """Write three chunks of 16 bytes, with an index that has no checksum; say where they lie."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "features", data=np.arange(24, dtype="<f2").reshape(3, 2, 2, 2), chunks=(1, 2, 2, 2),
            **filters,
        )  # fmt: skip
        return [dataset.id.get_chunk_info(row).byte_offset for row in range(3)]


@pytest.mark.parametrize("offset", [*BEYOND, 2**64 - 1, None], ids=str)
def test_hdf5_index_that_leads_out_of_the_file_or_into_another_sample_is_refused(
    tmp_path: Path, offset: int | None
) -> None:
    path = tmp_path / "shard-00000.h5"
    first, second, _ = chunked_file(path)
    assert hdf5_container.shard_offsets(path, 3, 3, 16)[:2].tolist() == [first, second]
    written, wanted = (
        number.to_bytes(8, "little") for number in (second, first + 8 if offset is None else offset)
    )
    assert path.read_bytes().count(written) == 1
    path.write_bytes(path.read_bytes().replace(written, wanted))
    with pytest.raises(CacheError, match=r"shard is (truncated|damaged)"):
        hdf5_container.shard_offsets(path, 3, 3, 16)


@pytest.mark.parametrize("name", ["shuffle", "fletcher32"])
def test_hdf5_chunks_that_a_filter_has_changed_are_refused(tmp_path: Path, name: str) -> None:
    chunked_file(tmp_path / "shard-00000.h5", **{name: True})
    with pytest.raises(CacheError, match="of another shape"):
        hdf5_container.shard_offsets(tmp_path / "shard-00000.h5", 3, 3, 16)


def test_removed_shard_is_named_and_the_next_run_computes_it_again(copied: TinyCache) -> None:
    before = {path: path.read_bytes() for level in LEVELS for path in copied.shard_files(level)}
    path = copied.shard_files(0)[2]
    path.unlink()
    with pytest.raises(CacheError, match=r"missing.*run extract-features --split train again"):
        LevelReader(copied.folder, 0)
    must_extract(copied.config, copied.folder.parent, "--container", copied.container)
    after = {path: path.read_bytes() for level in LEVELS for path in copied.shard_files(level)}
    assert after == before


def test_level_that_is_not_stored_is_refused_with_the_levels_there_are(
    zarr_cache: TinyCache,
) -> None:
    with pytest.raises(CacheError, match="the train cache holds levels 0, 1, 2, 3, 4, not level 5"):
        LevelReader(zarr_cache.folder, 5)


def test_folder_without_a_cache_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no feature cache: run extract-features --split val"):
        LevelReader(tmp_path / "val", 0)


@pytest.mark.parametrize("damage", ["not JSON", "[]", "{}", '{"format_version": 1}'])
def test_damaged_manifest_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE_NAME).write_text(damage)
    with pytest.raises(CacheError, match=r"manifest\.json: is damaged .* --overwrite"):
        Manifest.load(tmp_path)


def test_manifest_of_another_format_version_is_refused_by_number(copied: TinyCache) -> None:
    raw = json.loads((copied.folder / FILE_NAME).read_text())
    (copied.folder / FILE_NAME).write_text(json.dumps(raw | {"format_version": 3}))
    with pytest.raises(CacheError, match="is of format version 3, this program reads 1 and 2"):
        LevelReader(copied.folder, 0)


def test_manifest_comes_back_unchanged_from_its_json(zarr_cache: TinyCache) -> None:
    manifest = zarr_cache.manifest
    assert Manifest.from_json(json.loads(manifest.to_json())) == manifest


def test_cache_whose_extraction_has_not_finished_is_refused(copied: TinyCache) -> None:
    statistics_path(copied.folder, 3).unlink()
    with pytest.raises(CacheError, match="has not finished: run extract-features --split train"):
        LevelReader(copied.folder, 3)


def test_damaged_statistics_are_refused_and_made_again_once_removed(copied: TinyCache) -> None:
    path = statistics_path(copied.folder, 3)
    whole = path.read_text()
    path.write_text(whole[:-30])
    with pytest.raises(CacheError, match="the statistics are damaged"):
        LevelReader(copied.folder, 3)
    path.unlink()
    must_extract(copied.config, copied.folder.parent, "--container", copied.container)
    assert path.read_text() == whole
    assert ChannelStatistics.from_json(whole).count > 0
