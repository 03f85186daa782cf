"""What the writer promises: exact statistics, no silent overflow, a log that outlives a crash."""

from __future__ import annotations

import shutil
import tempfile
from collections import namedtuple
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import FILE_NAME as COMMITS_NAME
from data.cache.commit_log import CommitLog, _unsealed, read_commits
from data.cache.manifest import Manifest
from data.cache.plan import units_of
from data.reading.level_reader import LevelReader
from data.writing.stored_sample import SampleCaster
from data.writing.writer import CacheWriter
from tests.support.extraction import (
    TinyCache,
    error_of,
    fingerprints,
    images_of,
    must_extract,
    plan_of,
    run_extract,
    shard_bytes,
    stored_values,
)

DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.mark.parametrize("level", range(5))
def test_statistics_are_those_of_all_stored_values(tiny_cache: TinyCache, level: int) -> None:
    values = stored_values(tiny_cache.folder, level)
    with LevelReader(tiny_cache.folder, level) as reader:
        found = reader.statistics
    scale = np.abs(values).max()
    assert found.count == len(values)
    np.testing.assert_array_equal(found.minimum, values.min(axis=0))
    np.testing.assert_array_equal(found.maximum, values.max(axis=0))
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(found.variance, values.var(axis=0), rtol=1e-5)


def test_cast_error_is_that_of_float16_against_the_float32_cache(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    exact = must_extract(tiny_cache.config, tmp_path, "--dtype", "float32")
    for level in range(5):
        error = stored_values(tiny_cache.folder, level) - stored_values(exact, level)
        with LevelReader(tiny_cache.folder, level) as reader:
            assert reader.statistics.cast_mse == pytest.approx(np.mean(error**2), rel=1e-4)
            assert reader.statistics.cast_max_error == np.abs(error).max() > 0
        with LevelReader(exact, level) as reader:
            assert reader.statistics.cast_mse == reader.statistics.cast_max_error == 0


@given(
    sizes=st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=6),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    in_pairs=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_merged_statistics_are_those_of_the_whole(
    sizes: list[int], seed: int, in_pairs: bool
) -> None:
    rng = np.random.default_rng(seed)
    parts = [torch.from_numpy(rng.normal(3, 2, (size, 4, 5)).astype("f4")) for size in sizes]
    statistics = [SampleCaster("float32").cast(part, 0).statistics for part in parts]
    whole = torch.cat(parts).double().reshape(-1, 5).numpy()
    two_by_two = reduce(ChannelStatistics.merged_with, statistics)
    merged = two_by_two if in_pairs else ChannelStatistics.merged(statistics)
    assert merged.count == len(whole)
    np.testing.assert_allclose(merged.mean, whole.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(merged.variance, whole.var(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(merged.minimum, whole.min(axis=0))
    np.testing.assert_array_equal(merged.maximum, whole.max(axis=0))


def test_statistics_come_back_from_json_to_the_last_bit(zarr_cache: TinyCache) -> None:
    with LevelReader(zarr_cache.folder, 2) as reader:
        before = reader.statistics
    after = ChannelStatistics.from_json(before.to_json())
    assert after.to_json() == before.to_json()
    np.testing.assert_array_equal(after.m2, before.m2)


def tensors_of(manifest: Manifest, fill: float) -> dict[int, list[torch.Tensor]]:
    """Maps of the first unit, all values alike."""
    unit = units_of(manifest)[0]
    return {
        level.index: [torch.full(manifest.sample_shape(level.index, unit.bucket), fill)]
        * unit.num_rows
        for level in manifest.levels
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (70000.0, r"level 0: a feature of magnitude 7e\+04 does not fit float16: .* float32"),
        (float("inf"), "level 0: the detector computed infinite or NaN features"),
        (float("nan"), "level 0: the detector computed infinite or NaN features"),
    ],
)
def test_value_that_float16_cannot_hold_is_an_error_and_never_inf(
    zarr_cache: TinyCache, tmp_path: Path, value: float, message: str
) -> None:
    manifest = zarr_cache.manifest
    with CommitLog(tmp_path) as log:
        writer = CacheWriter(tmp_path, manifest, log)
        writer.prepare()
        with pytest.raises(CacheError, match=message):
            writer.write(writer.pending[0], tensors_of(manifest, value))
        writer.close()
    assert read_commits(tmp_path) == {}


def test_largest_float16_is_stored(zarr_cache: TinyCache, tmp_path: Path) -> None:
    manifest = zarr_cache.manifest
    with CommitLog(tmp_path) as log:
        writer = CacheWriter(tmp_path, manifest, log)
        writer.prepare()
        writer.write(writer.pending[0], tensors_of(manifest, 65504.0))
        writer.close()
    assert read_commits(tmp_path)[0].statistics[0].maximum.max() == 65504.0


def test_extraction_that_the_disk_cannot_hold_is_refused_before_a_sample_is_written(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(10**9, 10**9, 10**6))
    error = error_of(run_extract(tiny_config, tmp_path))
    assert error.startswith(f"{tmp_path / 'train'}: needs 0.00 GB, 0.00 GB are free: free space")
    assert "--dry-run" in error
    assert not list((tmp_path / "train").glob("level_*"))
    monkeypatch.undo()
    must_extract(tiny_config, tmp_path)


def test_torn_last_commit_line_is_no_commit_and_is_cut_off(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(zarr_cache.folder, folder)
    path = folder / COMMITS_NAME
    path.write_bytes(path.read_bytes()[:-700])
    num_units = len(units_of(zarr_cache.manifest))
    assert sorted(read_commits(folder)) == list(range(num_units - 1))
    assert "train: 1 images" in run_extract(zarr_cache.config, tmp_path).output
    assert fingerprints(folder) == fingerprints(zarr_cache.folder)


@pytest.mark.parametrize("kept", [slice(0, 100), slice(0, -9), slice(1, None)])
def test_damaged_commit_line_in_the_middle_is_told_and_its_unit_is_computed_again(
    zarr_cache: TinyCache, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: slice
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(zarr_cache.folder, folder)
    lines = (folder / COMMITS_NAME).read_bytes().split(b"\n")
    lines[3] = lines[3][kept]
    (folder / COMMITS_NAME).write_bytes(b"\n".join(lines))
    assert 2 not in read_commits(folder)
    assert "commits.jsonl: line 4 is damaged and does not count" in caplog.text
    must_extract(zarr_cache.config, tmp_path)
    assert 2 in read_commits(folder)
    assert shard_bytes(folder) == shard_bytes(zarr_cache.folder)


def test_any_changed_byte_of_a_commit_line_is_noticed(zarr_cache: TinyCache) -> None:
    line = (zarr_cache.folder / COMMITS_NAME).read_bytes().split(b"\n")[1]
    rng = np.random.default_rng(0)
    for place in rng.choice(len(line), 200, replace=False):
        changed = bytearray(line)
        changed[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="checksum differs"):
            _unsealed(bytes(changed))


def test_commits_hold_a_checksum_per_sample_and_level(zarr_cache: TinyCache) -> None:
    manifest = zarr_cache.manifest
    places = {(s.bucket, s.row): index for index, s in enumerate(manifest.samples)}
    commits = read_commits(zarr_cache.folder)
    for level in range(5):
        with LevelReader(zarr_cache.folder, level) as reader:
            for unit in units_of(manifest):
                rows = range(unit.first_row, unit.first_row + unit.num_rows)
                samples = [reader.sample(places[unit.bucket, row]) for row in rows]
                sums = [xxhash.xxh3_64_hexdigest(np.ascontiguousarray(s)) for s in samples]
                assert commits[unit.index].checksums[level] == sums


def test_commits_of_nobody_knows_which_manifest_are_void(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(zarr_cache.folder, folder)
    (folder / "manifest.json").unlink()
    plan, units = (folder / COMMITS_NAME).read_bytes().split(b"\n", 1)
    assert plan.startswith(b'{"plan":')
    (folder / COMMITS_NAME).write_bytes(units)
    assert "train: 8 images" in run_extract(zarr_cache.config, tmp_path).output
    assert fingerprints(folder) == fingerprints(zarr_cache.folder)


def test_annotations_gone_missing_are_written_again(zarr_cache: TinyCache, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(zarr_cache.folder, folder)
    (folder / "annotations.json").unlink()
    must_extract(zarr_cache.config, tmp_path)
    assert fingerprints(folder) == fingerprints(zarr_cache.folder)


def test_folder_that_cannot_be_made_is_one_line(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    error = error_of(run_extract(tiny_config, tmp_path / "file"))
    assert "cannot be written" in error
    assert error.endswith("choose another --features")


def test_plan_does_not_depend_on_the_images_pixels_but_the_first(zarr_cache: TinyCache) -> None:
    manifest, _ = plan_of(zarr_cache.config)
    assert manifest.fingerprint == zarr_cache.manifest.fingerprint
    assert [image.shape[:2] for image in images_of(manifest)] == [
        (sample.height, sample.width) for sample in manifest.samples
    ]


@given(length=st.integers(0, 5), torn=st.integers(0, 40))
def test_torn_last_line_is_cut_off_however_long_it_is(length: int, torn: int) -> None:
    """Read from the end on, block by block: here of 16 bytes."""
    lines = b"".join(b"%d: whole\n" % number for number in range(length))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.cache.commit_log._BLOCK", 16)
        path = Path(name) / COMMITS_NAME
        path.write_bytes(lines + b"x" * torn)
        CommitLog(Path(name)).close()
        assert path.read_bytes() == lines
